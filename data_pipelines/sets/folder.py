"""A folder of one's own images, with masks, with class labels, or with both."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.files import IMAGE_SUFFIXES, dicom, images
from data_pipelines.files.paths import files_below, files_by_name, is_stray
from data_pipelines.prepare import Source
from data_pipelines.sets.image_set import ImageSetBuilder
from data_pipelines.sets.label_table import classes_file, read_label_table
from multimix_jax.labels import LabelSpec


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
        **options: Any,
    ):
        """Args:
        source_dir: the folder with images/, masks/ and labels.csv.
        images, masks, labels: folders and table that lie elsewhere; where `images` is given,
            nothing is looked for in `source_dir`.
        options: size, fit, channels, prepared_dir, exclude, as for `ImageSetBuilder`.
        """
        source_dir = Path(source_dir)
        for key, path in (("images", images), ("masks", masks)):
            if path and not Path(path).is_dir():
                raise DataError(f"--config.folder.{key}={path} is no folder; correct the path")
        if labels and not Path(labels).is_file():
            raise DataError(f"--config.folder.labels={labels} is no file; correct the path")
        self.images_named = images != ""
        if self.images_named:
            self.images = Path(images)
            self.masks = Path(masks) if masks else None
            self.labels = Path(labels) if labels else None
            name = f"folder_{self.images.resolve().parent.name}_{self.images.name}"
        else:
            self.images = source_dir / "images"
            self.masks = Path(masks) if masks else source_dir / "masks"
            self.labels = Path(labels) if labels else source_dir / "labels.csv"
            name = "folder" if source_dir.name == "folder" else f"folder_{source_dir.name}"
        self.table = read_label_table(self.labels)
        self.masks_prefix = _masks_prefix(self.masks, self.images)
        self.label_spec = LabelSpec(
            self.table.class_names, self.table.multi_label, _mask_names(self.masks, self.images)
        )
        super().__init__(source_dir=source_dir, name=re.sub(r"\W", "_", name), **options)

    def fingerprint(self) -> str:
        roots = [root for root in (self.images, self.masks) if root is not None]
        files = [*files_below(roots), *self._tables()]
        return self.digest(files, self.masks_prefix, *self.label_spec.mask_names)

    def places(self) -> str:
        return "\n".join(str(p and p.resolve()) for p in (self.images, self.masks, self.labels))

    def missing(self, what: str) -> DataError:
        if not self.images_named:
            return super().missing(what)
        return DataError(f"{what}; set --config.folder.images to the folder that has them")

    def _tables(self) -> list[Path]:
        tables = [] if self.labels is None else [self.labels, classes_file(self.labels)]
        return [path for path in tables if path.is_file()]

    def contents(self) -> dict[str, str]:
        """Digests that tell images, masks and labels from others, wherever they lie: of the names
        and sizes of the files, and of all that the tables say; '' of what there is none."""
        contents = {
            "images": _list_files(self.images),
            "masks": b"" if self.masks is None else _list_files(self.masks),
            "labels": b"".join(path.read_bytes() for path in self._tables()),
        }
        return {
            key: hashlib.sha256(content).hexdigest()[:12] if content else ""
            for key, content in contents.items()
        }

    def find(self, roots: Sequence[Path]) -> list[Source]:
        del roots
        files = files_by_name(self.images, IMAGE_SUFFIXES)
        if self.masks_prefix:
            files = {n: path for n, path in files.items() if not n.startswith(self.masks_prefix)}
        if not files:
            raise self.missing(f"no images ({', '.join(IMAGE_SUFFIXES)}) in {self.images}")
        masks = self._find_masks(files)
        row_of = self._match_rows(files)
        sources = []
        for name, path in files.items():
            cells, label = row_of.get(name, ({}, -1))
            sources.append(
                Source(
                    id=name,
                    group=cells.get("patient") or name,
                    split=cells.get("split", ""),
                    image=path,
                    masks=tuple(masks.get(name, ())),
                    label=label,
                )
            )
        return sources

    def _match_rows(self, files: Mapping[str, Path]) -> dict[str, tuple[Mapping[str, str], int]]:
        """The cells and the label of each image that the table names, with or without suffix."""
        names = {path.relative_to(self.images).as_posix(): name for name, path in files.items()}
        names |= {name: name for name in files}
        row_of: dict[str, tuple[Mapping[str, str], int]] = {}
        for line, cells, label in self.table.rows:
            image = cells["image"]
            if image not in names:
                raise DataError(
                    f"{line} names the image {image!r}, which is not in {self.images}; "
                    "add the image or remove the row"
                )
            if names[image] in row_of:
                raise DataError(f"{line} is a second row for {image!r}; remove one of them")
            row_of[names[image]] = cells, label
        return row_of

    def _find_masks(self, files: Mapping[str, Path]) -> dict[str, list[Path]]:
        """The mask files of each image."""
        masks: dict[str, list[Path]] = {}
        if self.masks is None:
            return masks
        for root in [self.masks / name for name in self.label_spec.mask_names] or [self.masks]:
            for name, path in files_by_name(root, IMAGE_SUFFIXES).items():
                if path.suffix.lower() in dicom.SUFFIXES:
                    raise DataError(f"{path}: a mask cannot be DICOM; export it as PNG")
                if name not in files:
                    raise DataError(
                        f"{path} is a mask without an image; add {self.images / name}.* or remove "
                        "the mask"
                    )
                masks.setdefault(name, []).append(path)
        return masks

    def channel_of(self, mask: Path) -> int:
        if not self.label_spec.mask_names or self.masks is None:
            return 0
        return self.label_spec.mask_names.index(mask.relative_to(self.masks).parts[0])


def _list_files(root: Path) -> bytes:
    """Paths and sizes."""
    lines = (f"{p.relative_to(root)}\0{p.stat().st_size}\n" for p in files_below([root]))
    return "".join(lines).encode(errors="surrogateescape")


def _masks_prefix(masks: Path | None, images: Path) -> str:
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


def _mask_names(masks: Path | None, image_folder: Path) -> tuple[str, ...]:
    """The folders of masks that are no folders of images; () where masks are of one class."""
    if masks is None or not masks.is_dir():
        return ()
    below = [path for path in sorted(masks.iterdir()) if path.is_dir() and not is_stray(path.name)]
    names = tuple(path.name for path in below if not (image_folder / path.name).is_dir())
    if not names:
        return ()
    if len(names) < len(below):
        raise DataError(
            f"{masks} has folders that images has ({below[0].name}, ...) and others "
            f"({', '.join(names)}); put all masks into a folder for each class, "
            "masks/CLASS/..., or name the folders like those of the images"
        )
    empty = [str(folder) for folder in below if not _has_images(folder)]
    if empty:
        raise DataError(
            f"{', '.join(empty)}: a folder in {masks} is a class of masks, but there are no masks "
            f"({', '.join(images.SUFFIXES)}) in it; add some, or remove it"
        )
    stray = next((path for path in files_below([masks]) if path.parent == masks), None)
    if stray is not None:
        raise DataError(
            f"{stray} lies beside the folders of the classes ({', '.join(names)}); move it into one"
        )
    return names


def _has_images(folder: Path) -> bool:
    return any(path.name.lower().endswith(IMAGE_SUFFIXES) for path in files_below([folder]))
