"""What is checked of each example as it is read, and of a set when all of it is."""

import collections
import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import fft
from scipy.spatial import KDTree

from data_pipelines.errors import DataError
from data_pipelines.files.paths import require_file
from data_pipelines.findings import ERROR, NOTE, WARNING, Finding, Problem, collected, note
from data_pipelines.source import Source
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Split

_INVERTED = -0.3  # correlation of a thumbnail with the mean one
_NEAR = 0.995  # correlation of two thumbnails
_USELESS = ("full mask", "constant image")  # besides what is an error
_FEW = 5  # of a class
_PATIENCE = 10  # seconds
_CHUNK = 4096  # thumbnails that are compared at once


class Facts(NamedTuple):
    """What is known of one example once its files were read.

    `digest` is of its pixels, '' where they could not be read; see `_thumbnail`. `inverted` says
    whether its mask looks as if it were, None where nothing is marked.
    """

    data_set: str
    source: Source
    problems: list[Problem]
    error: DataError | None = None
    digest: str = ""
    thumbnail: np.ndarray = np.zeros((32, 32), np.float16)
    inverted: bool | None = None


def examine(
    name: str,
    label_spec: LabelSpec,
    read: Callable[[Source], dict[str, Any]],
    source: Source,
) -> tuple[Facts, dict[str, Any]]:
    """Reads an example of the set `name` and looks at it; {} where that fails."""
    with collected() as problems:
        try:
            for path in filter(None, (source.image, *source.masks)):
                require_file(path)
            example = read(source)
        except (DataError, OSError) as error:
            note("unreadable", ERROR, str(error := _as_data_error(source, error)))
            return Facts(name, source, problems, error), {}
        pixels = np.ascontiguousarray(example["image"])
        inverted = _look_at_mask(example["mask"], label_spec) if example["has_mask"] else None
        if all(np.ptp(channel) == 0 for channel in np.moveaxis(pixels, -1, 0)):
            note("constant image", WARNING, f"every pixel is {pixels.flat[0]:g}")
    digest = hashlib.sha256(pixels.data).hexdigest()
    return Facts(name, source, problems, None, digest, _thumbnail(pixels), inverted), example


def _as_data_error(source: Source, error: DataError | OSError) -> DataError:
    """What the system says of a file becomes what this program does."""
    if isinstance(error, DataError):
        return error
    return DataError(
        f"{error.filename or source.image} cannot be read ({error.strerror or error}); allow "
        "reading it, copy it again, or remove it"
    )


def refusal(seen: Sequence[Facts], others: Iterator[tuple[Facts, Any]], total: int) -> DataError:
    """The error of the last of `seen`, which could not be read. Looks at the `others` of the
    `total` for some seconds, so that it can say how many more of them there are.
    """
    bad, count, until = 1, len(seen), time.monotonic() + _PATIENCE
    for one, _ in others:
        count += 1
        bad += one.error is not None
        if time.monotonic() > until:
            break
    looked_at = f"{total}" if count == total else f"the first {count} (of {total})"
    return DataError(
        f"{seen[-1].error}. So {bad} of {looked_at} examples cannot be used: to see all, and to "
        "train without them, run multimix-audit --config=... --exclude_list=exclude.csv and add "
        "--config.exclude=exclude.csv"
    )


def _look_at_mask(mask: np.ndarray, label_spec: LabelSpec) -> bool | None:
    """Whether channels [..., C] of a stored mask are empty or full, but for what is void; and
    whether one looks inverted: it holds most of the image and of its border. None of no pixel.
    """
    names = label_spec.mask_names or ("",)
    inverted = None
    for channel, name in zip(np.moveaxis(mask, -1, 0), names, strict=True):
        of_class = f" of {name}" if name else ""
        inside = np.count_nonzero(channel == 1)
        if not inside:
            note("empty mask", NOTE, f"the mask{of_class} covers nothing of the image")
            continue
        if channel.all():
            note("full mask", WARNING, f"the mask{of_class} covers all of the image")
        border = np.concatenate([channel[0].flat, channel[-1].flat, channel[:, (0, -1)].flat])
        inverted = bool(inverted) or (inside > channel.size / 2 and (border == 1).mean() > 0.5)
    return inverted


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    """An image [H, W, C], or the middle slice of a volume [X, Y, Z, C], made grey and small.

    float16 [32, 32] of zero mean and unit norm; zeros of an image of one value.
    """
    plane = pixels if pixels.ndim == 3 else pixels[:, :, pixels.shape[2] // 2]
    grey = plane.mean(-1, dtype=np.float32) if plane.shape[-1] > 1 else plane[..., 0]
    height, width = grey.shape
    if height % 32 or width % 32:
        image = Image.fromarray(grey.astype(np.float32))
        small = np.asarray(image.resize((32, 32), Image.Resampling.BOX), np.float32)
    else:  # the same in less time
        rows = grey.reshape(32, height // 32, width).sum(axis=1, dtype=np.float32)
        small = rows.reshape(32, 32, width // 32).mean(axis=2)
    small = small - small.mean()
    norm = np.linalg.norm(small)
    return (small / norm if norm > 1e-6 else np.zeros_like(small)).astype(np.float16)


def of_set(
    name: str,
    label_spec: LabelSpec,
    complete: int,
    facts: Sequence[Facts],
    problems: Sequence[Problem],
) -> list[Finding]:
    """All findings of one set, of which whole `complete` examples are known (0: any number), but
    for duplicates; `problems` are those of the set as a whole, as its listing noted them.
    """
    return [
        *(Finding(name, kind, severity, (), detail) for kind, severity, detail in problems),
        *_of_each(name, facts),
        *_of_all(name, label_spec, complete, facts),
    ]


def _of_each(name: str, facts: Sequence[Facts]) -> Iterator[Finding]:
    """What single examples have, by kind."""
    by_kind = collections.defaultdict(list)
    for one in facts:
        for kind, severity, detail in one.problems:
            by_kind[kind, severity].append((one.source.id, detail))
    for (kind, severity), entries in by_kind.items():
        ids = list(dict.fromkeys(id_ for id_, _ in entries))
        details = list(dict.fromkeys(detail for _, detail in entries))
        more = f"; and {len(details) - 3} more" if len(details) > 3 else ""
        useless = severity == ERROR or kind in _USELESS
        excluded = [(name, id_) for id_ in ids] if useless else []
        yield Finding(name, kind, severity, ids, "; ".join(details[:3]) + more, excluded)


def _of_all(
    name: str, label_spec: LabelSpec, complete: int, facts: Sequence[Facts]
) -> Iterator[Finding]:
    """What shows when all examples of a set are compared."""
    sources = [one.source for one in facts]
    if complete not in (0, len(facts)):
        detail = f"{len(facts)} of {complete} examples are there"
        yield Finding(name, "incomplete", NOTE, (), detail)
    for first, second in itertools.combinations(Split, 2):
        groups = [{s.group for s in sources if s.split == split} for split in (first, second)]
        shared = groups[0] & groups[1]
        if shared:
            members = [s for s in sources if s.group in shared and s.split in (first, second)]
            order = {group: i for i, group in enumerate(dict.fromkeys(s.group for s in members))}
            members.sort(key=lambda source: order[source.group])
            detail = f"{len(shared)} patients have images in both, such as {members[0].group}"
            kind = f"same patient in {first} and {second}"
            yield Finding(name, kind, WARNING, [source.id for source in members], detail)
    if label_spec.class_names:
        missing = [source.id for source in sources if source.label < 0]
        if missing:
            detail = f"{len(missing)} of {len(facts)} examples have no label"
            yield Finding(name, "no label", NOTE, missing, detail)
        partly = [source.id for source in sources if source.unknown]
        if partly:
            detail = f"of {len(partly)} of {len(facts)} examples some classes are not known"
            yield Finding(name, "labels known in part", NOTE, partly, detail)
    yield from _scarce(name, label_spec, sources)
    marked = [one for one in facts if one.inverted is not None]
    inside_out = [one.source.id for one in marked if one.inverted]
    if 2 * len(inside_out) > len(marked):
        detail = (
            f"{len(inside_out)} of {len(marked)} masks hold most of the image and of its border, "
            "as if 0 were inside; if so, invert them"
        )
        yield Finding(name, "inverted masks", WARNING, inside_out, detail)
    thumbnails = np.array([one.thumbnail for one in facts])
    if np.count_nonzero(thumbnails.any(axis=(1, 2))) >= 10:
        mean = thumbnails.mean(axis=0, dtype=np.float32)
        mean /= max(float(np.linalg.norm(mean)), 1e-6)
        correlations = (thumbnails * mean).sum(axis=(1, 2))
        inverted = np.flatnonzero(correlations < _INVERTED).tolist()
        if inverted:
            such = f"{sources[inverted[0]].id} ({correlations[inverted[0]]:.2f})"
            detail = f"dark where the others are bright, such as {such}"
            ids = [sources[index].id for index in inverted]
            yield Finding(name, "inverted image", WARNING, ids, detail)


def _scarce(name: str, label_spec: LabelSpec, sources: Sequence[Source]) -> Iterator[Finding]:
    """What is too rare to choose and to measure by: classes, in the set or in an official split of
    it, and patients with a mask.
    """
    has = lambda one, k: (
        one.label >= 0 and (one.label >> k & 1 if label_spec.multi_label else one.label == k)
    )
    official = [split for split in Split if any(one.split == split for one in sources)]
    for split in (None, *official):
        part = [one for one in sources if split in (None, one.split)]
        counts = {c: sum(has(s, k) for s in part) for k, c in enumerate(label_spec.class_names)}
        few = [f"{count} of {c}" for c, count in counts.items() if count < _FEW]
        if few and any(counts.values()):
            detail = f"{', '.join(few)}; choosing and measuring takes {_FEW} of each, at least"
            where = f" in {split}" if split else ""
            yield Finding(name, f"few of a class{where}", WARNING, (), detail)
    patients = len({one.group for one in sources if one.masks or one.empty})
    if 0 < patients < 3:
        detail = f"of {patients}; training, validation and test need one each"
        yield Finding(name, "masks of few patients", WARNING, (), detail)


def duplicates(facts: Sequence[Facts]) -> list[Finding]:
    """Examples of the same pixels, and of nearly the same, within and across sets and splits."""
    by_digest = collections.defaultdict(list)
    for one in facts:
        if one.digest:
            by_digest[one.digest].append(one)
    groups = by_digest.values()
    equal = [_duplicate("same image", members) for members in groups if len(members) > 1]
    different = [members[0] for members in groups if members[0].thumbnail.any()]
    pairs = _near_pairs(np.array([one.thumbnail for one in different]))
    near = [_duplicate("nearly the same image", [different[i], different[j]]) for i, j in pairs]
    return equal + near


def _near_pairs(thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """The pairs (i, j), i < j, of [N, 32, 32] that correlate."""
    if not len(thumbnails):
        return []
    # The transform keeps distances, so those that are near are so in their low frequencies alone.
    transform = lambda some: fft.dctn(some.astype(np.float32), axes=(1, 2), norm="ortho")
    starts = range(0, len(thumbnails), _CHUNK)
    low = np.concatenate([transform(thumbnails[i : i + _CHUNK])[:, :8, :8] for i in starts])
    pairs = KDTree(low.reshape(len(low), -1)).query_pairs(np.sqrt(2 - 2 * _NEAR))
    alike = lambda i, j: np.vdot(*thumbnails[[i, j]].astype(np.float32)) > _NEAR
    return [(i, j) for i, j in sorted(pairs) if alike(i, j)]


def _duplicate(kind: str, members: Sequence[Facts]) -> Finding:
    """One is kept: of the test set if there is one there, else the first that is annotated."""
    rank: dict[str, int] = {Split.TEST: 0, Split.VAL: 1}
    bare = lambda source: (not source.masks) + (source.label < 0)
    order = lambda one: (rank.get(one.source.split, 2), bare(one.source))
    ordered = sorted(members, key=order)
    splits = sorted({one.source.split or "none" for one in members})
    labels = {(one.source.label, one.source.unknown) for one in members}
    places = f" in {' and '.join(splits)}" if len(splits) > 1 else ""
    labelled = ", with different labels" if len(labels) > 1 else ""
    return Finding(
        "+".join(sorted({one.data_set for one in members})),
        f"{kind}{places}",
        WARNING,
        [one.source.id for one in members],
        f"{len(members)} examples{labelled}",
        [(one.data_set, one.source.id) for one in ordered[1:] if kind == "same image"],
    )
