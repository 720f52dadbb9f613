"""Looks at every file of the data sets of a config, before anything is trained on them.

    multimix-audit --config=configs/multimix.py --config.data_dir=DIR
    multimix-audit --config=... --json=audit.json --exclude_list=exclude.csv

Prints its findings, by kind; --json has all of them. --exclude_list writes the examples that had
better not be used; a run takes that list as --config.exclude. Exit status 1 where some file cannot
be used.
"""

import collections
import csv
import dataclasses
import functools
import hashlib
import itertools
import json
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tabulate
from absl import app, flags
from ml_collections import config_flags
from PIL import Image
from pydicom.misc import is_dicom
from scipy import fft
from scipy.spatial import KDTree

import data_pipelines
from data_pipelines import arguments, exclude
from data_pipelines.arguments import preparation
from data_pipelines.errors import DataError
from data_pipelines.files import IMAGE_SUFFIXES, dicom, images
from data_pipelines.prepare import SetBuilder, Source
from data_pipelines.threads import in_threads, show_progress
from multimix_jax.names import Split

ERROR, WARNING, NOTE = "error", "warning", "note"  # cannot be used; may be wrong; good to know
_INVERTED = -0.3  # correlation of a thumbnail with the mean one
_NEAR = 0.995  # correlation of two thumbnails
_USELESS = ("empty mask", "full mask", "constant image")  # besides what is an error
_MODES = {"P": "palette", "PA": "palette", "CMYK": "CMYK", "RGB": "colour", "RGBA": "colour"}

Problem = tuple[str, str, str]  # of one example: kind, severity and detail of a `Finding`


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something about some examples.

    Attributes:
      data_set: which they are of; of several, joined by '+'.
      kind: what it is, such as 'unreadable'.
      severity: ERROR, WARNING or NOTE.
      ids: examples concerned; [] where the set as a whole is.
      detail: an account of it.
      exclude: those of `ids`, as (data set, id), that had better not be trained on.
    """

    data_set: str
    kind: str
    severity: str
    ids: Sequence[str]
    detail: str
    exclude: Sequence[tuple[str, str]] = ()


class Facts(NamedTuple):
    """What is known of one example once its files were read.

    `digest` is of its pixels, '' where they could not be read; see `_thumbnail`.
    """

    data_set: str
    source: Source
    problems: list[Problem]
    digest: str = ""
    thumbnail: np.ndarray = np.zeros((32, 32), np.float32)


def audit(builders: Mapping[str, SetBuilder]) -> list[Finding]:
    """Reads every example of some sets, by name, once: what is wrong with each and with all."""
    findings: list[Finding] = []
    facts: list[Facts] = []
    for name, builder in builders.items():
        with tempfile.TemporaryDirectory() as scratch:
            try:
                sources = builder.sources(Path(scratch))
            except DataError as error:
                findings.append(Finding(name, "cannot be listed", ERROR, [], str(error)))
                continue
            examined = in_threads(functools.partial(examine, name, builder), sources)
            of_set = list(show_progress(examined, f"Reading {name}", len(sources)))
        findings += _of_each(name, of_set)
        findings += _of_a_set(name, builder, of_set)
        facts += of_set
    return findings + _duplicates(facts)


def examine(name: str, builder: SetBuilder, source: Source) -> Facts:
    """Reads one example as a preparation would, and looks at its files besides."""
    problems: list[Problem] = []
    for path in filter(None, (source.image, *source.masks)):
        problems += _of_file(path)
    for path in source.masks:
        problems += _of_mask(path)
    try:
        example = builder.example(source)
    except DataError as error:
        return Facts(name, source, [*problems, ("unreadable", ERROR, str(error))])
    pixels = np.asarray(example["image"])
    image = pixels.mean(axis=-1, dtype=np.float32)
    if example["has_mask"]:
        share = float((example["mask"] > 0).mean())
        if share in (0.0, 1.0):
            kind = "full mask" if share else "empty mask"
            problems.append((kind, WARNING, f"the mask covers {share:.0%} of the image"))
    if image.max() == image.min():
        problems.append(("constant image", WARNING, f"every pixel is {image.max():g}"))
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()
    return Facts(name, source, problems, digest, _thumbnail(image))


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """An image [H, W], or the middle slice of a volume [X, Y, Z], made small.

    float32 [32, 32] of zero mean and unit norm; zeros of an image of one value.
    """
    flat = image if image.ndim == 2 else image[:, :, image.shape[2] // 2]
    small = np.asarray(Image.fromarray(flat).resize((32, 32), Image.Resampling.BOX), np.float32)
    small = small - small.mean()
    norm = np.linalg.norm(small)
    return small / norm if norm > 1e-6 else np.zeros_like(small)


def _of_file(path: Path) -> Iterator[Problem]:
    """What an image file's header says; other files are left to their reader."""
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        return
    form, mode, transparent = "DICOM", "", False
    try:
        if not is_dicom(path):
            with images.opened(path.read_bytes()) as image:
                form, mode = image.format or "", image.mode
                transparent = "transparency" in image.info or mode in ("LA", "PA", "RGBA")
    except Exception:  # Pillow raises many kinds
        return  # reported when the example is read
    due = "DICOM" if suffix in dicom.SUFFIXES else Image.registered_extensions()[suffix]
    if form != due and form in (*images.FORMATS, "DICOM"):
        yield ("wrong type behind the extension", WARNING, f"{path} is a {form} file")
    if mode in _MODES:
        yield (_MODES[mode], NOTE, f"{path} has mode {mode}")
    if transparent:
        yield ("transparency", NOTE, f"{path} has an alpha channel, which is not read")
    if mode.startswith(("I", "F")):
        yield ("more than 8 bits", NOTE, f"{path} has mode {mode}: stretched to 0..255")


def _of_mask(path: Path) -> Iterator[Problem]:
    """Which values a mask has."""
    try:
        values, counts = np.unique(images.read_values(path), return_counts=True)
    except DataError:
        return  # reported when the example is read
    if len(values) <= 2:
        yield ("mask values", NOTE, " and ".join(f"{v:g}" for v in values))
    else:
        between = 1 - counts[[0, -1]].sum() / counts.sum()
        detail = f"{path}: {between:.1%} of its pixels lie between two values"
        yield ("soft mask", NOTE, detail)


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


def _of_a_set(name: str, builder: SetBuilder, facts: Sequence[Facts]) -> Iterator[Finding]:
    """What shows when all examples of a set are compared."""
    sources = [one.source for one in facts]
    if builder.complete not in (0, len(facts)):
        detail = f"{len(facts)} of {builder.complete} examples are there"
        yield Finding(name, "incomplete", NOTE, [], detail)
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
    if builder.label_spec.class_names:
        missing = [source.id for source in sources if source.label < 0]
        if missing:
            detail = f"{len(missing)} of {len(facts)} examples have no label"
            yield Finding(name, "no label", NOTE, missing, detail)
    thumbnails = np.array([one.thumbnail for one in facts])
    if np.count_nonzero(thumbnails.any(axis=(1, 2))) >= 10:
        mean = thumbnails.mean(axis=0)
        mean /= max(float(np.linalg.norm(mean)), 1e-6)
        correlations = (thumbnails * mean).sum(axis=(1, 2))
        inverted = np.flatnonzero(correlations < _INVERTED).tolist()
        if inverted:
            such = f"{sources[inverted[0]].id} ({correlations[inverted[0]]:.2f})"
            detail = f"dark where the others are bright, such as {such}"
            ids = [sources[index].id for index in inverted]
            yield Finding(name, "inverted image", WARNING, ids, detail)


def _duplicates(facts: Sequence[Facts]) -> list[Finding]:
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
    flat = thumbnails.reshape(len(thumbnails), -1)
    # The transform keeps distances, so those that are near are so in their low frequencies alone.
    low = fft.dctn(thumbnails, axes=(1, 2), norm="ortho")[:, :8, :8].reshape(len(flat), -1)
    distance = np.sqrt(2 - 2 * _NEAR)
    return [
        (i, j) for i, j in sorted(KDTree(low).query_pairs(distance)) if flat[i] @ flat[j] > _NEAR
    ]


def _duplicate(kind: str, members: Sequence[Facts]) -> Finding:
    """One is kept: of the test set if there is one there, else the first."""
    rank: dict[str, int] = {Split.TEST: 0, Split.VAL: 1}
    ordered = sorted(members, key=lambda one: rank.get(one.source.split, 2))
    splits = sorted({one.source.split or "none" for one in members})
    labels = {one.source.label for one in members}
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


def table(findings: Sequence[Finding]) -> str:
    """The findings, by data set, severity and kind."""
    order = lambda one: (one.data_set, (ERROR, WARNING, NOTE).index(one.severity), one.kind)
    rows = []
    for _, group in itertools.groupby(sorted(findings, key=order), order):
        first, *others = group
        ids = set(first.ids).union(*(other.ids for other in others))
        example = f"{first.ids[0]}: {first.detail}" if first.ids else first.detail
        rows.append((first.data_set, first.severity, first.kind, len(ids) or "", example[:140]))
    headers = ("data set", "", "what", "examples", "such as")
    return tabulate.tabulate(rows, headers, tablefmt="plain", disable_numparse=True)


def write_exclude_list(path: Path, findings: Sequence[Finding]) -> int:
    """Writes what to exclude, and why, for `exclude.read`; gives how many that are."""
    # Of several reasons the first counts.
    reasons = {entry: one.kind for one in reversed(findings) for entry in one.exclude}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(exclude.COLUMNS)
        writer.writerows((*entry, reason) for entry, reason in sorted(reasons.items()))
    return len(reasons)


def main(argv: list[str]) -> None:
    del argv
    values = flags.FLAGS
    config = values.config
    tests = [item.partition("=")[0].strip() for item in config.test_data.split(",")]
    names = dict.fromkeys(filter(None, (config.seg_data, config.cls_data, *tests)))
    try:
        options = preparation(config.to_dict()) | {"exclude": {}}
        findings = audit({name: data_pipelines.make_builder(name, **options) for name in names})
    except DataError as error:
        sys.exit(f"error: {error}")
    print(table(findings))
    if values.json:
        entries = [dataclasses.asdict(finding) for finding in findings]
        Path(values.json).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    if values.exclude_list:
        count = write_exclude_list(Path(values.exclude_list), findings)
        print(f"{count} examples to exclude: --config.exclude={values.exclude_list}")
    if any(finding.severity == ERROR for finding in findings):
        sys.exit(1)


def run() -> None:
    """The command, as `multimix-audit` or `python -m data_pipelines.audit`."""
    sys.modules["__main__"].__doc__ = __doc__  # what --help shows
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # into `head` it ends quietly
    config_flags.DEFINE_config_file("config", None, "Config file, as for launch.py.")
    flags.DEFINE_string("json", None, "File to write all findings to.")
    flags.DEFINE_string("exclude_list", None, "CSV file to write the examples to exclude to.")
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=arguments.parse)


if __name__ == "__main__":
    run()
