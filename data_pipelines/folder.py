"""A folder of one's own images, with masks, with class labels, or with both."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from data_pipelines import dicom, images, table
from data_pipelines.builder import Source, files_by_name
from data_pipelines.errors import DataError
from data_pipelines.image_set import ImageSetBuilder

_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff")
SUFFIXES = (*_SUFFIXES, *dicom.SUFFIXES)  # of images
_LABEL_COLUMNS = ("image", "label", "patient", "split")
_SPLITS = ("", "train", "val", "test")


class Folder(ImageSetBuilder):
    """images/*, masks/* of the same names, labels.csv (image,label,patient,split), classes.txt.

    Images may be DICOM files.
    """

    archives = ()
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "put the images into DATA_DIR/folder/images (or, for a set named folder:SUBDIR, into "
        "DATA_DIR/SUBDIR/images), their masks into masks/ under the same names, and their classes "
        "into labels.csv with the columns image,label"
    )

    def __init__(
        self,
        *,
        source_dir: str | Path,
        size: int,
        prepared_dir: str = "",
        leave_out: Collection[str] = (),
    ):
        source_dir = Path(source_dir)
        name = "folder" if source_dir.name == "folder" else f"folder_{source_dir.name}"
        super().__init__(
            source_dir=source_dir,
            size=size,
            prepared_dir=prepared_dir,
            name=re.sub(r"\W", "_", name),
            leave_out=leave_out,
        )
        self.class_names = _class_names(source_dir)

    def find(self, roots: Sequence[Path]) -> list[Source]:
        found = files_by_name(roots[0] / "images", SUFFIXES)
        if not found:
            raise self.missing(f"no images ({', '.join(SUFFIXES)}) in images/")
        masks = files_by_name(roots[0] / "masks", SUFFIXES)
        for name, path in masks.items():
            if _is_dicom(path):
                raise DataError(f"{path}: a mask cannot be DICOM; export it as PNG")
            if name not in found:
                raise DataError(
                    f"{path} is a mask without an image; add images/{name}.* or remove the mask"
                )
        rows = _read_labels(roots[0])
        by_name = {path.relative_to(roots[0] / "images").as_posix(): n for n, path in found.items()}
        by_name |= {name: name for name in found}
        row_of: dict[str, dict[str, str]] = {}
        for line, row in rows:
            if row["image"] not in by_name:
                raise DataError(
                    f"{line} names the image {row['image']!r}, which is not in images/; "
                    "add the image or remove the row"
                )
            name = by_name[row["image"]]
            if name in row_of:
                raise DataError(f"{line} is a second row for {row['image']!r}; remove one of them")
            row_of[name] = row
        sources = []
        for name, path in found.items():
            row = row_of.get(name, {"label": "", "patient": "", "split": ""})
            sources.append(
                Source(
                    id=name,
                    group=row["patient"] or name,
                    split=row["split"],
                    image=path,
                    masks=(masks[name],) if name in masks else (),
                    label=self.class_names.index(row["label"]) if row["label"] else -1,
                )
            )
        return sources

    def read(self, source: Source) -> tuple[np.ndarray, np.ndarray | None, tuple[float, float]]:
        assert source.image is not None
        image, spacing = read_image(source.image)
        return image, self.read_masks(source, image.shape), spacing


def read_image(path: Path) -> tuple[np.ndarray, tuple[float, float]]:
    """One image of any kind in SUFFIXES: float32 [H, W] in 0..255, and millimetres from one row and
    from one column to the next, (0, 0) where unknown.

    Raises:
        DataError: it cannot be read; see `images.read_gray` and `dicom.read`.
    """
    return dicom.read(path) if _is_dicom(path) else (images.read_gray(path), (0.0, 0.0))


def _is_dicom(path: Path) -> bool:
    return path.suffix.lower() in dicom.SUFFIXES


def _read_labels(folder: Path) -> list[tuple[str, dict[str, str]]]:
    """The rows of labels.csv, each with where it stands; [] where there is no such file."""
    path = folder / "labels.csv"
    if not path.exists():
        return []
    due = "its first line must be image,label (and may go on with patient,split)"
    rows = []
    for number, row in table.read_rows(path, ("image", "label"), due):
        values = {key: row.get(key, "").strip() for key in _LABEL_COLUMNS}
        rows.append((f"{path}, line {number},", values))
    for line, values in rows:
        if values["split"] not in _SPLITS:
            raise DataError(f"{line} has the split {values['split']!r}; use train, val or test")
    return rows


def _class_names(folder: Path) -> tuple[str, ...]:
    """The names in classes.txt, one a line; without it, the labels of labels.csv, sorted."""
    rows = _read_labels(folder)
    path = folder / "classes.txt"
    if not path.exists():
        return tuple(sorted({values["label"] for _, values in rows} - {""}))
    names = tuple(table.read_lines(path))
    for line, values in rows:
        if values["label"] and values["label"] not in names:
            raise DataError(
                f"{line} has the label {values['label']!r}, but {path} names {', '.join(names)}; "
                "correct the row or add the class"
            )
    return names
