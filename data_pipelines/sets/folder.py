"""A folder of one's own images, with masks, with class labels, or with both."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.builder import Source, files_below, files_by_name, is_stray
from data_pipelines.errors import DataError, shown
from data_pipelines.files import dicom, images, table
from data_pipelines.sets.image_set import ImageSetBuilder

_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff")
SUFFIXES = (*_SUFFIXES, *dicom.SUFFIXES)  # of images
_LABEL_COLUMNS = ("image", "label", "patient", "split")
_SPLITS = ("", "train", "val", "test")
_DUE = (
    "its first line must be image,label, or image and a name for each of several independent "
    "classes (and may go on with patient,split)"
)
_MOST_CLASSES = 62  # independent ones, which are kept as the bits of a number


@dataclasses.dataclass(frozen=True)
class _Labels:
    """A table of labels.

    Attributes:
        class_names: in the order of the labels.
        exclusive: whether an image has one of them; else any, each by itself.
        rows: where each stands, its cells, and its label as in `Source`.
    """

    class_names: tuple[str, ...] = ()
    exclusive: bool = True
    rows: Sequence[tuple[str, Mapping[str, str], int]] = ()


class Folder(ImageSetBuilder):
    """images/*, masks/* of the same names, labels.csv (image,label,patient,split), classes.txt.

    In place of `label` the table may have a column of 0 and 1 for each of independent classes.
    Images may be DICOM files. Masks of several classes lie in a folder for each, masks/CLASS/*; an
    image with a mask of one class has nothing of the others whose file is not there.
    """

    archives = ()
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "put the images into DATA_DIR/folder/images (or, for a set named folder:SUBDIR, into "
        "DATA_DIR/SUBDIR/images), their masks into masks/ under the same names, and their classes "
        "into labels.csv with the columns image,label; or name the folders, "
        "--config=configs/folder.py:images=DIR,masks=DIR,labels=CSV"
    )

    def __init__(
        self,
        *,
        source_dir: str | Path,
        images: str = "",
        masks: str = "",
        labels: str = "",
        **how: Any,
    ):
        """Args:
        source_dir: the folder with images/, masks/ and labels.csv.
        images, masks, labels: folders and table that lie elsewhere; where `images` is given,
            nothing is looked for in `source_dir`.
        how: size, fit, channels, prepared_dir, leave_out, as for `ImageSetBuilder`.
        """
        source_dir = Path(source_dir)
        for key, path, there in (
            ("images", images, Path.is_dir),
            ("masks", masks, Path.is_dir),
            ("labels", labels, Path.is_file),
        ):
            if path and not there(Path(path)):
                kind = "file" if key == "labels" else "folder"
                raise DataError(f"--config.folder.{key}={path} is no {kind}; correct the path")
        at = lambda path, default: Path(path) if path or images else source_dir / default
        self.images = at(images, "images")
        self.masks = at(masks, "masks") if masks or not images else None
        self.labels = at(labels, "labels.csv") if labels or not images else None
        self.table = _read_labels(self.labels)
        self.class_names, self.exclusive = self.table.class_names, self.table.exclusive
        self.masks_within = _masks_within(self.masks, self.images)
        self.mask_names = _mask_names(self.masks, self.images)
        self.images_named = images != ""
        name = "folder" if source_dir.name == "folder" else f"folder_{source_dir.name}"
        if images:
            name = f"folder_{self.images.resolve().parent.name}_{self.images.name}"
        super().__init__(source_dir=source_dir, name=re.sub(r"\W", "_", name), **how)

    def fingerprint(self) -> str:
        roots = [root for root in (self.images, self.masks) if root is not None]
        words = (self.masks_within, *self.mask_names)
        return self.digest([*files_below(roots), *self._tables()], filter(None, words))

    def places(self) -> str:
        return "\n".join(str(p and p.resolve()) for p in (self.images, self.masks, self.labels))

    def missing(self, what: str) -> DataError:
        if not self.images_named:
            return super().missing(what)
        return DataError(f"{what}; set --config.folder.images to the folder that has them")

    def _tables(self) -> list[Path]:
        tables = [] if self.labels is None else [self.labels, _classes_file(self.labels)]
        return [path for path in tables if path.is_file()]

    def contents(self) -> dict[str, str]:
        """Digests that tell images, masks and labels from others, wherever they lie: of the names
        and sizes of the files, and of all that the tables say; '' of what there is none."""
        listed = lambda root: b"".join(
            str(path.relative_to(root)).encode(errors="surrogateescape")
            + f"\0{path.stat().st_size}\n".encode()
            for path in files_below([] if root is None else [root])
        )
        said = dict(images=listed(self.images), masks=listed(self.masks))
        said["labels"] = b"".join(path.read_bytes() for path in self._tables())
        digest = lambda text: hashlib.sha256(text).hexdigest()[:12] if text else ""
        return {key: digest(text) for key, text in said.items()}

    def find(self, roots: Sequence[Path]) -> list[Source]:
        del roots
        found = files_by_name(self.images, SUFFIXES)
        if self.masks_within:
            found = {n: p for n, p in found.items() if not n.startswith(self.masks_within)}
        if not found:
            raise self.missing(f"no images ({', '.join(SUFFIXES)}) in {self.images}")
        masks = self._masks(found)
        by_name = {path.relative_to(self.images).as_posix(): n for n, path in found.items()}
        by_name |= {name: name for name in found}
        row_of: dict[str, tuple[Mapping[str, str], int]] = {}
        for line, row, label in self.table.rows:
            if row["image"] not in by_name:
                raise DataError(
                    f"{line} names the image {row['image']!r}, which is not in {self.images}; "
                    "add the image or remove the row"
                )
            name = by_name[row["image"]]
            if name in row_of:
                raise DataError(f"{line} is a second row for {row['image']!r}; remove one of them")
            row_of[name] = row, label
        sources = []
        for name, path in found.items():
            row, label = row_of.get(name, ({"patient": "", "split": ""}, -1))
            sources.append(
                Source(
                    id=name,
                    group=row["patient"] or name,
                    split=row["split"],
                    image=path,
                    masks=tuple(masks.get(name, ())),
                    label=label,
                )
            )
        return sources

    def _masks(self, found: Mapping[str, Path]) -> dict[str, list[Path]]:
        """The mask files of each image."""
        masks: dict[str, list[Path]] = {}
        if self.masks is None:
            return masks
        for root in [self.masks / name for name in self.mask_names] or [self.masks]:
            for name, path in files_by_name(root, SUFFIXES).items():
                if _is_dicom(path):
                    raise DataError(f"{path}: a mask cannot be DICOM; export it as PNG")
                if name not in found:
                    raise DataError(
                        f"{path} is a mask without an image; add {self.images / name}.* or remove "
                        "the mask"
                    )
                masks.setdefault(name, []).append(path)
        return masks

    def channel_of(self, mask: Path) -> int:
        if not self.mask_names or self.masks is None:
            return 0
        return self.mask_names.index(mask.relative_to(self.masks).parts[0])

    def read(self, source: Source) -> tuple[np.ndarray, np.ndarray | None, tuple[float, float]]:
        assert source.image is not None
        image, spacing = read_image(source.image, self.channels)
        return image, self.read_masks(source, image.shape[:2]), spacing


def read_image(path: Path, channels: int = 1) -> tuple[np.ndarray, tuple[float, float]]:
    """One image of any kind in SUFFIXES: float32 [H, W] in 0..255, or [H, W, 3] of colour for 3
    channels; and millimetres from one row and from one column to the next, (0, 0) where unknown.

    Raises:
        DataError: it cannot be read; see `images.read` and `dicom.read`.
    """
    if _is_dicom(path):
        return dicom.read(path, channels)
    return images.read(path, channels), (0.0, 0.0)


def _is_dicom(path: Path) -> bool:
    return path.suffix.lower() in dicom.SUFFIXES


def _masks_within(masks: Path | None, images: Path) -> str:
    """How names below `images` begin that are masks: 'masks/', or '' where these lie elsewhere."""
    if masks is None or not masks.is_dir():
        return ""
    inner, outer = masks.resolve(), images.resolve()
    if outer.is_relative_to(inner):
        raise DataError(
            f"the images ({images}) lie in the folder of the masks ({masks}), and would be taken "
            "for masks; move one of them, and set --config.folder.images or --config.folder.masks"
        )
    return f"{inner.relative_to(outer).as_posix()}/" if inner.is_relative_to(outer) else ""


def _mask_names(masks: Path | None, images: Path) -> tuple[str, ...]:
    """The folders of masks that are no folders of images; () where masks are of one class."""
    if masks is None or not masks.is_dir():
        return ()
    below = [path for path in sorted(masks.iterdir()) if path.is_dir() and not is_stray(path.name)]
    names = tuple(path.name for path in below if not (images / path.name).is_dir())
    if names and len(names) < len(below):
        raise DataError(
            f"{masks} has folders that images has ({below[0].name}, ...) and others "
            f"({', '.join(names)}); put all masks into a folder for each class, "
            "masks/CLASS/..., or name the folders like those of the images"
        )
    has_masks = lambda folder: any(p.name.lower().endswith(SUFFIXES) for p in files_below([folder]))
    empty = [str(masks / name) for name in names if not has_masks(masks / name)]
    if empty:
        raise DataError(
            f"{', '.join(empty)}: a folder in {masks} is a class of masks, but there are no masks "
            f"({', '.join(_SUFFIXES)}) in it; add some, or remove it"
        )
    stray = next((p for p in files_below([masks]) if names and p.parent == masks), None)
    if stray is not None:
        raise DataError(
            f"{stray} lies beside the folders of the classes ({', '.join(names)}); move it into one"
        )
    return names


def _classes_file(labels: Path) -> Path:
    return labels.parent / "classes.txt"


def _read_labels(path: Path | None) -> _Labels:
    """What a table says; nothing where there is no such file."""
    if path is None or not path.exists():
        return _Labels()
    rows = []
    for number, cells in table.read_rows(path, ("image",), _DUE):
        rows.append((f"{path}, line {number},", cells))
        if cells.get("split", "") not in _SPLITS:
            raise DataError(
                f"{rows[-1][0]} has the split {cells['split']!r}; use train, val or test"
            )
    columns = list(rows[0][1]) if rows else ["label"]
    if "label" in columns:
        names = _class_names(path, rows)
        label_of = lambda line, cells: names.index(cells["label"]) if cells["label"] else -1
    else:
        names = tuple(name for name in columns if name not in _LABEL_COLUMNS)
        if not 0 < len(names) <= _MOST_CLASSES or "" in names:
            raise DataError(
                f"{path} has the columns {shown(', '.join(columns))}; {_DUE}, 1 to {_MOST_CLASSES} "
                "of them"
            )
        label_of = lambda line, cells: _bits(line, {name: cells[name] for name in names})
    labelled = [
        (line, {"patient": "", "split": "", **cells}, label_of(line, cells)) for line, cells in rows
    ]
    return _Labels(names, "label" in columns, labelled)


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
    if not _classes_file(labels).exists():
        return tuple(sorted({cells["label"] for _, cells in rows} - {""}))
    names = tuple(table.read_lines(_classes_file(labels)))
    for line, cells in rows:
        if cells["label"] and cells["label"] not in names:
            raise DataError(
                f"{line} has the label {cells['label']!r}, but {_classes_file(labels)} names "
                f"{', '.join(names)}; correct the row or add the class"
            )
    return names
