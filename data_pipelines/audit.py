"""Looks at every file of the data sets of a config, before anything is trained on them.

    multimix-audit --config=configs/multimix.py --config.data_dir=DIR
    multimix-audit --config=... --json=audit.json --fix_list=leave_out.csv

Prints what it found, by kind; --json has all of it. --fix_list writes the examples that should be
left out; a run takes that list as --config.leave_out. Exit status 1 where some file cannot be used.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import json
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from ml_collections import config_flags
from PIL import Image
from scipy import fft
from tqdm import tqdm

import data_pipelines
from data_pipelines import exclude
from data_pipelines.builder import SetBuilder, Source, in_threads
from data_pipelines.errors import DataError
from data_pipelines.files import dicom, images
from data_pipelines.of_config import preparation, with_packaged

ERROR, WARNING, NOTE = "error", "warning", "note"
_THUMBNAIL = 32
_BANDS = 6  # of a perceptual hash; two that differ in fewer bits share one of them
_NEAR = 0.995  # correlation of two thumbnails
_INVERTED = -0.3  # correlation of a thumbnail with the mean one
_FORMATS = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "GIF": (".gif",), "BMP": (".bmp",)}
_FORMATS |= {"TIFF": (".tif", ".tiff"), "DICOM": dicom.SUFFIXES}


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something about some examples.

    Attributes:
      data_set: which they are of; of several, joined by '+'.
      kind: what it is, such as 'unreadable'.
      severity: ERROR, it cannot be used; WARNING, it may be wrong; NOTE, good to know.
      ids: examples concerned; [] where the set as a whole is.
      detail: what was seen.
      leave_out: those of `ids` (as 'set,id') that had better not be trained on.
    """

    data_set: str
    kind: str
    severity: str
    ids: Sequence[str]
    detail: str
    leave_out: Sequence[tuple[str, str]] = ()


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of one example once its files were read.

    Attributes:
      data_set: its set.
      source: who it is.
      problems: (kind, severity, detail) of its own.
      digest: of its pixels; '' where they could not be read.
      thumbnail: float32 [T,T], zero mean and unit norm; None where unknown or of one value.
    """

    data_set: str
    source: Source
    problems: list[tuple[str, str, str]]
    digest: str = ""
    thumbnail: np.ndarray | None = None


def audit(builders: Mapping[str, SetBuilder]) -> list[Finding]:
    """Reads every example of some sets, by name, once; says what it found of each and of all."""
    findings: list[Finding] = []
    facts: list[Facts] = []
    for name, builder in builders.items():
        with tempfile.TemporaryDirectory() as scratch:
            try:
                sources = builder.sources(Path(scratch))
            except DataError as error:
                findings.append(Finding(name, "cannot be listed", ERROR, [], str(error)))
                continue
            look = functools.partial(examine, name, builder)
            progress = tqdm(
                in_threads(look, sources),
                desc=f"Reading {name}",
                total=len(sources),
                unit=" examples",
                disable=None,
            )
            found = list(progress)
        findings += _of_each(name, found) + _of_a_set(name, builder, found)
        facts += found
    return findings + _duplicates(facts)


def examine(name: str, builder: SetBuilder, source: Source) -> Facts:
    """Reads one example as a preparation would, and looks at its files besides."""
    problems: list[tuple[str, str, str]] = []
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


def _of_file(path: Path) -> list[tuple[str, str, str]]:
    """What an image file's header says; other files are left to their reader."""
    suffixes = [suffix for known in _FORMATS.values() for suffix in known]
    if path.suffix.lower() not in suffixes:
        return []
    kind, mode, transparent = "DICOM", "", False
    if not dicom.is_dicom(path):
        try:
            with images.opened(path.read_bytes()) as image:
                kind, mode = image.format or "", image.mode
                transparent = "transparency" in image.info or mode in ("LA", "PA", "RGBA")
        except images.UNREADABLE:
            return []  # the reader says it better
    found = []
    if kind in _FORMATS and path.suffix.lower() not in _FORMATS[kind]:
        found.append(("wrong type behind the extension", WARNING, f"{path} is a {kind} file"))
    named = {"P": "palette", "PA": "palette", "CMYK": "CMYK", "RGB": "colour", "RGBA": "colour"}
    if mode in named:
        found.append((named[mode], NOTE, f"{path} has mode {mode}"))
    if transparent:
        found.append(("transparency", NOTE, f"{path} has an alpha channel, which is not read"))
    if mode.startswith(("I", "F")):
        found.append(("more than 8 bits", NOTE, f"{path} has mode {mode}: stretched to 0..255"))
    return found


def _of_mask(path: Path) -> list[tuple[str, str, str]]:
    """Which values a mask has."""
    try:
        values, counts = np.unique(images.read_values(path), return_counts=True)
    except DataError:
        return []  # said when the example is read
    if len(values) <= 2:
        return [("mask values", NOTE, " and ".join(f"{v:g}" for v in values))]
    between = 1 - counts[[0, -1]].sum() / counts.sum()
    return [("soft mask", NOTE, f"{path}: {between:.1%} of its pixels lie between two values")]


def _thumbnail(image: np.ndarray) -> np.ndarray | None:
    """The middle slice of a volume; small, of zero mean and unit norm."""
    flat = image if image.ndim == 2 else image[:, :, image.shape[2] // 2]
    small = np.asarray(
        Image.fromarray(flat).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX), np.float32
    )
    small = small - small.mean()
    norm = np.linalg.norm(small)
    return small / norm if norm > 1e-6 else None


def _of_each(name: str, facts: Sequence[Facts]) -> list[Finding]:
    """What single examples have, by kind."""
    by_kind: dict[tuple[str, str], list[tuple[str, str]]] = collections.defaultdict(list)
    for one in facts:
        for kind, severity, detail in one.problems:
            by_kind[kind, severity].append((one.source.id, detail))
    found = []
    for (kind, severity), entries in by_kind.items():
        ids = list(dict.fromkeys(id_ for id_, _ in entries))
        details = list(dict.fromkeys(detail for _, detail in entries))
        useless = severity == ERROR or kind in ("empty mask", "full mask", "constant image")
        leave_out = [(name, id_) for id_ in ids] if useless else []
        more = f"; and {len(details) - 3} more" if len(details) > 3 else ""
        found.append(Finding(name, kind, severity, ids, "; ".join(details[:3]) + more, leave_out))
    return found


def _of_a_set(name: str, builder: SetBuilder, facts: Sequence[Facts]) -> list[Finding]:
    """What shows when all examples of a set are seen together."""
    found = []
    if builder.complete not in (0, len(facts)):
        detail = f"{len(facts)} of {builder.complete} examples are there"
        found.append(Finding(name, "incomplete", NOTE, [], detail))
    by_group: dict[str, list[Facts]] = collections.defaultdict(list)
    for one in facts:
        by_group[one.source.group].append(one)
    for first, second in itertools.combinations(("train", "val", "test"), 2):
        shared = {
            group: [one.source.id for one in members if one.source.split in (first, second)]
            for group, members in by_group.items()
            if {first, second} <= {one.source.split for one in members}
        }
        if shared:
            ids = [id_ for members in shared.values() for id_ in members]
            detail = f"{len(shared)} patients have images in both, such as {next(iter(shared))}"
            kind = f"same patient in {first} and {second}"
            found.append(Finding(name, kind, WARNING, ids, detail))
    if builder.class_names:
        missing = [one.source.id for one in facts if one.source.label < 0]
        if missing:
            detail = f"{len(missing)} of {len(facts)} examples have no label"
            found.append(Finding(name, "no label", NOTE, missing, detail))
    thumbnails = [one.thumbnail for one in facts if one.thumbnail is not None]
    if len(thumbnails) >= 10:
        mean = np.mean(thumbnails, axis=0)
        mean /= max(float(np.linalg.norm(mean)), 1e-6)
        against = {
            one.source.id: float((one.thumbnail * mean).sum())
            for one in facts
            if one.thumbnail is not None
        }
        ids = [id_ for id_, value in against.items() if value < _INVERTED]
        if ids:
            detail = f"dark where the others are bright, such as {ids[0]} ({against[ids[0]]:.2f})"
            found.append(Finding(name, "inverted image", WARNING, ids, detail))
    return found


def _duplicates(facts: Sequence[Facts]) -> list[Finding]:
    """Examples of the same pixels, and of nearly the same, within and across sets and splits."""
    readable = [one for one in facts if one.digest]
    by_digest: dict[str, list[Facts]] = collections.defaultdict(list)
    for one in readable:
        by_digest[one.digest].append(one)
    exact = [members for members in by_digest.values() if len(members) > 1]
    findings = [_duplicate("same image", members) for members in exact]
    singles = [members[0] for members in by_digest.values() if members[0].thumbnail is not None]
    findings += [_duplicate("nearly the same image", pair) for pair in _near_pairs(singles)]
    return findings


def _duplicate(kind: str, members: Sequence[Facts]) -> Finding:
    """One is kept: of the test set if there is one there, else the first."""
    rank = {"test": 0, "val": 1}
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


def _near_pairs(facts: Sequence[Facts]) -> list[tuple[Facts, Facts]]:
    """Pairs whose perceptual hashes (of the low frequencies) agree in a band, and thumbnails do."""
    if not facts:
        return []
    thumbnails = np.stack([one.thumbnail for one in facts if one.thumbnail is not None])
    low = fft.dctn(thumbnails, axes=(1, 2))[:, :8, :8].reshape(len(facts), -1)[:, 1:]
    bits = low > np.median(low, axis=1, keepdims=True)
    candidates: set[tuple[int, int]] = set()
    for band in np.array_split(np.arange(bits.shape[1]), _BANDS):
        alike: dict[bytes, list[int]] = collections.defaultdict(list)
        for index, key in enumerate(np.packbits(bits[:, band], axis=1)):
            alike[key.tobytes()].append(index)
        for members in alike.values():
            block = thumbnails[members].reshape(len(members), -1)
            rows, columns = np.nonzero(np.triu(block @ block.T > _NEAR, 1))
            candidates |= {
                (members[row], members[column])
                for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
            }
    return [(facts[first], facts[second]) for first, second in sorted(candidates)]


def table(findings: Sequence[Finding]) -> str:
    """What was found, by data set, severity and kind."""
    groups: dict[tuple[str, str, str], list[Finding]] = collections.defaultdict(list)
    for finding in findings:
        groups[finding.data_set, finding.severity, finding.kind].append(finding)
    order = [ERROR, WARNING, NOTE]
    lines = [("data set", "", "what", "examples", "such as")]
    for (name, severity, kind), members in sorted(
        groups.items(), key=lambda item: (item[0][0], order.index(item[0][1]), item[0][2])
    ):
        count = len({id_ for finding in members for id_ in finding.ids})
        first = members[0]
        shown = f"{first.ids[0]}: {first.detail}" if first.ids else first.detail
        lines.append((name, severity, kind, str(count or ""), shown[:140]))
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines
    )


def write_fix_list(path: Path, findings: Sequence[Finding]) -> int:
    """Writes what to leave out as data_set,id,reason; gives how many that are."""
    reasons: dict[tuple[str, str], str] = {}
    for finding in findings:
        for entry in finding.leave_out:
            reasons.setdefault(entry, finding.kind)
    exclude.write(path, reasons)
    return len(reasons)


def _set_names(config: Any) -> list[str]:
    tests = [item.partition("=")[0].strip() for item in config.test_data.split(",")]
    used = [name for name in (config.seg_data, config.cls_data, *tests) if name]
    return list(dict.fromkeys(used))


def main(argv: list[str]) -> None:
    del argv
    given = flags.FLAGS
    c = given.config
    try:
        how = preparation(c) | {"leave_out": {}}
        findings = audit({name: data_pipelines.make_builder(name, **how) for name in _set_names(c)})
    except DataError as error:
        sys.exit(f"error: {error}")
    print(table(findings))
    if given.json:
        entries = [dataclasses.asdict(finding) for finding in findings]
        Path(given.json).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    if given.fix_list:
        count = write_fix_list(Path(given.fix_list), findings)
        print(f"{count} examples to leave out: --config.leave_out={given.fix_list}")
    if any(finding.severity == ERROR for finding in findings):
        sys.exit(1)


def run() -> None:
    """The command, as `multimix-audit` or `multimix-audit`."""
    sys.modules["__main__"].__doc__ = __doc__  # what --help shows
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # into `head` it ends quietly
    config_flags.DEFINE_config_file("config", None, "Config file, as for launch.py.")
    flags.DEFINE_string("json", None, "File to write all findings to.")
    flags.DEFINE_string("fix_list", None, "CSV file to write the examples to leave out to.")
    flags.mark_flag_as_required("config")
    app.run(
        main,
        flags_parser=lambda argv: app.parse_flags_with_usage([argv[0], *with_packaged(argv[1:])]),
    )


if __name__ == "__main__":
    run()
