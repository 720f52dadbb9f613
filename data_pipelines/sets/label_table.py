"""The table of labels of a folder of one's own images, and the list of classes beside it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipelines.errors import DataError, shown
from data_pipelines.files import table
from multimix_jax.names import Split

_COLUMNS = ("image", "label", "patient", "split")
_DUE = (
    "its first line must be image,label, or image and a name for each of several independent "
    "classes (and may go on with patient,split)"
)
_MOST_CLASSES = 62  # of a multi-label set, which are kept as the bits of a number


@dataclasses.dataclass(frozen=True)
class LabelTable:
    """A table of labels.

    Attributes:
        class_names: in the order of the labels.
        multi_label: whether an image has any number of the classes; else one.
        rows: where each stands, for messages; its cells; and its label as in `Source`.
    """

    class_names: tuple[str, ...] = ()
    multi_label: bool = False
    rows: Sequence[tuple[str, Mapping[str, str], int]] = ()


def classes_file(labels: Path) -> Path:
    """The list of classes that belongs to a table."""
    return labels.parent / "classes.txt"


def read_label_table(path: Path | None) -> LabelTable:
    """Reads a table; of no file it is empty.

    Raises:
        DataError: it has a split, a class, a cell or columns that it cannot have.
    """
    if path is None or not path.exists():
        return LabelTable()
    rows = []
    for number, cells in table.read_rows(path, ("image",), _DUE):
        rows.append((f"{path}, line {number},", cells))
        if cells.get("split", "") not in ("", *Split):
            raise DataError(
                f"{rows[-1][0]} has the split {cells['split']!r}; use train, val or test"
            )
    columns = list(rows[0][1]) if rows else ["label"]
    if "label" in columns:
        names = _class_names(path, rows)
        labels = [names.index(c["label"]) if c["label"] else -1 for _, c in rows]
    else:
        names = tuple(name for name in columns if name not in _COLUMNS)
        if not 0 < len(names) <= _MOST_CLASSES or "" in names:
            raise DataError(
                f"{path} has the columns {shown(', '.join(columns))}; {_DUE}, 1 to {_MOST_CLASSES} "
                "of them"
            )
        labels = [_bits(line, {name: cells[name] for name in names}) for line, cells in rows]
    labelled = [(line, cells, label) for (line, cells), label in zip(rows, labels, strict=True)]
    return LabelTable(names, "label" not in columns, labelled)


def _bits(line: str, cells: Mapping[str, str]) -> int:
    """Bit k is set where the k-th cell says 1; -1 where none says anything."""
    if not any(cells.values()):
        return -1
    label = 0
    for index, (name, cell) in enumerate(cells.items()):
        if cell not in ("0", "1", "0.0", "1.0"):
            raise DataError(
                f"{line} has {shown(cell)!r} in the column {shown(name)!r}, but independent "
                "classes need 0 or 1 in each, or nothing in any; for one class an image use the "
                "columns image,label"
            )
        label |= int(float(cell)) << index
    return label


def _class_names(labels: Path, rows: Sequence[tuple[str, Mapping[str, str]]]) -> tuple[str, ...]:
    """The names in classes.txt, one a line; without it, the labels of the table, sorted."""
    if not classes_file(labels).exists():
        return tuple(sorted({cells["label"] for _, cells in rows} - {""}))
    names = tuple(table.read_lines(classes_file(labels)))
    for line, cells in rows:
        if cells["label"] and cells["label"] not in names:
            raise DataError(
                f"{line} has the label {cells['label']!r}, but {classes_file(labels)} names "
                f"{', '.join(names)}; correct the row or add the class"
            )
    return names
