"""The table of labels beside one's own images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipelines.errors import DataError, shown
from data_pipelines.files import table
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Split

Cells = Mapping[str, str]  # of a row, by the names of their columns
CLASSES = "classes.txt"  # beside the table
_COLUMNS = ("image", "label", "patient", "split")
_DUE = (
    "its first line must be image,label, or image and a name for each of several independent "
    "classes (and may go on with patient,split)"
)
_SPLITS = {
    "train": Split.TRAIN,
    "training": Split.TRAIN,
    "val": Split.VAL,
    "valid": Split.VAL,
    "validation": Split.VAL,
    "dev": Split.VAL,
    "test": Split.TEST,
    "testing": Split.TEST,
}
_MOST_CLASSES = 62  # of a multi-label set, which are kept as the bits of a number


def read(path: Path | None) -> tuple[LabelSpec, list[tuple[str, Cells, int]]]:
    """The classes of a table; and of each row where it stands, for messages, its cells, and its
    label as in `Source`. Of no file it is empty.

    Raises DataError for a split, a class, a cell or columns that it cannot have.
    """
    if path is None or not path.exists():
        return LabelSpec(), []
    rows = []
    for number, cells in table.read_rows(path, ("image",), _DUE):
        line = f"{path}, line {number},"
        if cells.get("split", "") not in ("", *Split):
            raise DataError(f"{line} has the split {cells['split']!r}; use train, val or test")
        rows.append((line, cells))
    columns = list(rows[0][1]) if rows else ["label"]
    if "label" in columns:
        names = _class_names(path, rows)
        labels = [names.index(cells["label"]) if cells["label"] else -1 for _, cells in rows]
    else:
        names = tuple(name for name in columns if name not in _COLUMNS)
        if not 0 < len(names) <= _MOST_CLASSES or "" in names:
            raise DataError(
                f"{path} has the columns {shown(', '.join(columns))}; {_DUE}, 1 to {_MOST_CLASSES} "
                "of them"
            )
        labels = [_bits(line, {name: cells[name] for name in names}) for line, cells in rows]
    spec = LabelSpec(names, multi_label="label" not in columns)
    return spec, [(*row, label) for row, label in zip(rows, labels, strict=True)]


def split_of(word: str) -> Split | None:
    """The part of a data set that a word of a table, or the name of a folder, means."""
    return _SPLITS.get(word.strip().casefold())


def _bits(line: str, cells: Cells) -> int:
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


def _class_names(labels: Path, rows: Sequence[tuple[str, Cells]]) -> tuple[str, ...]:
    """The names in classes.txt, one a line; without it, the labels of the table, sorted."""
    classes = labels.with_name(CLASSES)
    if not classes.exists():
        return tuple(sorted({cells["label"] for _, cells in rows} - {""}))
    names = tuple(table.read_lines(classes))
    for line, cells in rows:
        if cells["label"] and cells["label"] not in names:
            raise DataError(
                f"{line} has the label {cells['label']!r}, but {classes} names "
                f"{', '.join(names)}; correct the row or add the class"
            )
    return names
