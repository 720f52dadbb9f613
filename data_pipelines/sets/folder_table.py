"""The table of labels beside one's own images."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipelines.errors import DataError, shown
from data_pipelines.files import table
from data_pipelines.findings import WARNING, note
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Split

CLASSES = "classes.txt"  # beside the table
_COLUMNS = {
    "image": (),
    "label": (),
    "patient": ("patient id", "patient-id", "subject", "subject id", "subject-id"),
    "split": (),
    "annotated": (),
}
_DUE = (
    "its first line must be image,label, or image and a name for each of several independent "
    "classes (and may go on with patient,split)"
)
_SPLITS = {
    **dict.fromkeys(("train", "training"), Split.TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), Split.VAL),
    **dict.fromkeys(("test", "testing"), Split.TEST),
}
_MOST_CLASSES = 62  # of a multi-label set, which are kept as the bits of a number
_NO, _YES = ("", "0", "no", "false"), ("1", "yes", "true")
_UNKNOWN = ("", "-1")  # the second means 'uncertain' in CheXpert and MIMIC


@dataclasses.dataclass(frozen=True)
class Row:
    """What a table says of one image; `label` and `unknown` are as in `Source`."""

    line: str = ""  # where it stands, for messages
    image: str = ""
    label: int = -1
    unknown: int = 0
    patient: str = ""
    split: str = ""
    annotated: bool = False  # was looked at: what has no mask in it is not there


@dataclasses.dataclass(frozen=True)
class Table:
    """The classes and the rows of a table."""

    spec: LabelSpec = LabelSpec()
    rows: Sequence[Row] = ()


def split_of(word: str) -> Split | None:
    """The part of a data set that a word of a table, or the name of a folder, means."""
    return _SPLITS.get(word.casefold())


def read(path: Path | None) -> Table:
    """Reads a table; of no file it is empty.

    Raises DataError for a split, a class, a cell or columns that it cannot have.
    """
    if path is None or not path.exists():
        return Table()
    lines = {
        f"{path}, line {number},": cells
        for number, cells in table.read_rows(path, ("image",), _DUE, _COLUMNS)
    }
    columns = list(next(iter(lines.values()), {"label": ""}))
    others = tuple(name for name in columns if name not in ("", *_COLUMNS))
    if "label" in columns:
        spec = LabelSpec(_class_names(path, lines))
        labels = [(_index(spec.class_names, cells["label"]), 0) for cells in lines.values()]
    elif not others and "annotated" in columns:
        spec, labels = LabelSpec(), [(-1, 0)] * len(lines)
    elif 0 < len(others) <= _MOST_CLASSES:
        spec = LabelSpec(others, multi_label=True)
        labels = [_bits(line, {n: cells[n] for n in others}) for line, cells in lines.items()]
    else:
        raise DataError(
            f"{path} has the columns {shown(', '.join(columns))}; {_DUE}, 1 to {_MOST_CLASSES} "
            "of them"
        )
    patients: dict[str, str] = {}  # as they were spelled first
    rows = []
    for (line, cells), (label, unknown) in zip(lines.items(), labels, strict=True):
        patient, split = (table.stated(cells.get(name, "")) for name in ("patient", "split"))
        if split and not split_of(split):
            raise DataError(f"{line} has the split {split!r}; use train, val or test")
        patient = patients.setdefault(patient.casefold(), patient)
        annotated = table.stated(cells.get("annotated", "")).casefold()
        if annotated not in (*_NO, *_YES):
            raise DataError(
                f"{line} has {shown(annotated)!r} in the column 'annotated'; use 0 or 1"
            )
        of_image = cells["image"], label, unknown, patient, split_of(split) or ""
        rows.append(Row(line, *of_image, annotated in _YES))
    _note_what_is_not_used(path, spec, list(lines.values()))
    return Table(spec, rows)


def _bits(line: str, cells: Mapping[str, str]) -> tuple[int, int]:
    """Bit k is set where the k-th cell says 1; and where it says nothing. (-1, 0) if all do."""
    label = unknown = 0
    for index, (name, cell) in enumerate(cells.items()):
        if table.stated(cell) in _UNKNOWN:
            unknown |= 1 << index
        elif table.stated(cell) in ("0", "1"):
            label |= int(table.stated(cell)) << index
        else:
            raise DataError(
                f"{line} has {shown(cell)!r} in the column {shown(name)!r}, but independent "
                "classes need 0 or 1 in each, or nothing or -1 where it is not known; remove "
                "columns that are no classes, or use image,label for one class an image"
            )
    return (-1, 0) if unknown == (1 << len(cells)) - 1 else (label, unknown)


def _index(names: Sequence[str], cell: str) -> int:
    """Which of the classes it is; -1 where the cell says nothing."""
    spelled = next((text for text in (cell, table.stated(cell)) if text in names), None)
    return -1 if spelled is None else names.index(spelled)


def _class_names(path: Path, lines: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """The names in classes.txt, one a line; without it, the labels of the table, sorted."""
    file = path.with_name(CLASSES)
    names = tuple(table.read_lines(file)) if file.exists() else ()
    if twins := table.find_twins(names):
        raise DataError(
            f"{file} names {' and '.join(map(repr, twins))}, which are one class; remove one"
        )
    lines_of: dict[str, str] = {}  # where each label stands first
    for line, cells in lines.items():
        label = table.stated(cells["label"])
        if cells["label"] not in names and label not in (*names, *_UNKNOWN):
            lines_of.setdefault(label, line)
    if names and lines_of:
        label, line = next(iter(lines_of.items()))
        raise DataError(
            f"{line} has the label {label!r}, but {file} names {', '.join(names)}; correct the row "
            "or add the class"
        )
    if twins := table.find_twins(lines_of):
        raise DataError(
            f"{lines_of[twins[1]]} has the label {twins[1]!r}, and {lines_of[twins[0]]} has "
            f"{twins[0]!r}, which seem to be one class; spell them alike"
        )
    two = next((line for line, cells in lines.items() if table.stated(cells["label"]) == "-1"), "")
    if two and not names and len(lines_of) == 1:
        raise DataError(
            f"{two} has the label -1, and all others are {next(iter(lines_of))!r} or empty; "
            "write 0 if it is a class, and nothing if it is not known"
        )
    return names or tuple(sorted(lines_of))


def _note_what_is_not_used(path: Path, spec: LabelSpec, rows: Sequence[Mapping[str, str]]) -> None:
    """For a person who believes that every cell counts as it stands."""
    of_one = ("label",) if rows and "label" in rows[0] else ()
    classes = spec.class_names if spec.multi_label else of_one
    empty = () if any(row.get("") for row in rows) else ("",)
    unused = [
        name for name in (rows[0] if rows else ()) if name not in (*_COLUMNS, *classes, *empty)
    ]
    if unused:
        names = shown(", ".join(name or "one without a name" for name in unused))
        detail = f"{path}: not used are the columns {names}; used are {', '.join(_COLUMNS)}"
        note("columns not used", WARNING, detail)
    cells = collections.Counter(row[name] for row in rows for name in classes)
    words = [c for c in cells if c and c not in spec.class_names and table.stated(c) in _UNKNOWN]
    if words:
        count = sum(cells[word] for word in words)
        detail = f"{path}: {count} labels that are {', '.join(words)} are taken as unknown"
        note("labels taken as unknown", WARNING, detail)
    nobody = sum(not table.stated(row["patient"]) for row in rows if "patient" in row)
    if nobody:
        detail = f"{path}: {nobody} rows name no patient, so that each image counts as one"
        note("rows without a patient", WARNING, detail)
    if len(spec.class_names) == 1 and not spec.multi_label:
        detail = f"{path}: every label is {shown(spec.class_names[0])}, which cannot be learned so"
        note("a single class", WARNING, detail)
    if not spec.multi_label:
        return
    for value, meaning in (("1", "is known to have"), ("0", "is known to be without")):
        known = {name for row in rows for name in classes if table.stated(row[name]) == value}
        if missing := [name for name in classes if name not in known]:
            detail = (
                f"{path}: no image {meaning} {shown(', '.join(missing))}, which cannot be learned "
                f"so; empty cells are unknown: write {value} where that is known"
            )
            note("classes with one answer", WARNING, detail)
    if path.with_name(CLASSES).exists():
        detail = f"{path.with_name(CLASSES)} is not used: the columns of {path} are the classes"
        note("classes.txt not used", WARNING, detail)
