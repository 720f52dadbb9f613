"""A folder of one's own images, with masks, with class labels, or with both."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.files import IMAGE_SUFFIXES, dicom
from data_pipelines.files.paths import files_below, files_by_name
from data_pipelines.sets import folder_masks, folder_table
from data_pipelines.sets.image_set import ImageSetBuilder
from data_pipelines.source import Roots, Source


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
        """Folders and the table may lie elsewhere: where `images` is given, nothing is looked for
        in `source_dir`. The other options are those of `ImageSetBuilder`.
        """
        for key, path in (("images", images), ("masks", masks)):
            if path and not Path(path).is_dir():
                raise DataError(f"--config.folder.{key}={path} is not a folder; correct the path")
        if labels and not Path(labels).is_file():
            raise DataError(f"--config.folder.labels={labels} is not a file; correct the path")
        home = Path(source_dir)
        name = "folder" if home.name == "folder" else f"folder_{home.name}"
        self.images_named = images != ""
        self.images = Path(images or home / "images")
        if self.images_named:
            name = f"folder_{self.images.resolve().parent.name}_{self.images.name}"
        default = lambda name: None if self.images_named else home / name
        self.masks = Path(masks) if masks else default("masks")
        self.labels = Path(labels) if labels else default("labels.csv")
        label_spec, self.rows = folder_table.read(self.labels)
        self.masks_prefix = ""
        self.mask_folders: dict[str, Path] = {}
        if self.masks is not None and self.masks.is_dir():
            self.masks_prefix = folder_masks.prefix(self.masks, self.images)
            self.mask_folders = folder_masks.folders(self.masks, self.images)
        self.label_spec = dataclasses.replace(label_spec, mask_names=tuple(self.mask_folders))
        super().__init__(source_dir=home, name=re.sub(r"\W", "_", name), **options)

    def fingerprint(self) -> str:
        files = [*files_below(filter(None, (self.images, self.masks))), *self._tables()]
        return self.digest(files, self.masks_prefix, *self.label_spec.mask_names)

    def places(self) -> str:
        return "\n".join(str(p and p.resolve()) for p in (self.images, self.masks, self.labels))

    def missing(self, what: str) -> DataError:
        if not self.images_named:
            return super().missing(what)
        return DataError(f"{what}; set --config.folder.images to the folder that has them")

    def _tables(self) -> list[Path]:
        tables = [self.labels, self.labels.with_name(folder_table.CLASSES)] if self.labels else []
        return [path for path in tables if path.is_file()]

    def contents(self) -> dict[str, str]:
        """Digests that tell images, masks and labels from others, wherever they lie: of the names
        and sizes of the files, and of all that the tables say; '' of what there is none."""
        contents = {
            "images": _list_files(self.images),
            "masks": _list_files(self.masks) if self.masks else b"",
            "labels": b"".join(path.read_bytes() for path in self._tables()),
        }
        digest = lambda content: hashlib.sha256(content).hexdigest()[:12]
        return {key: digest(content) if content else "" for key, content in contents.items()}

    def find(self, roots: Roots) -> list[Source]:
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
            patient, split = cells.get("patient") or name, cells.get("split", "")
            sources.append(Source(name, patient, split, path, tuple(masks.get(name, ())), label))
        return sources

    def _match_rows(self, files: Mapping[str, Path]) -> dict[str, tuple[folder_table.Cells, int]]:
        """The cells and the label of each image that the table names, with or without suffix."""
        names = {name + path.suffix: name for name, path in files.items()} | dict(zip(files, files))
        row_of: dict[str, tuple[folder_table.Cells, int]] = {}
        for line, cells, label in self.rows:
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
        for root in self.mask_folders.values() or [self.masks]:
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
        around = (n for n, root in enumerate(self.mask_folders.values()) if root in mask.parents)
        return next(around, 0)


def _list_files(root: Path) -> bytes:
    """Paths and sizes."""
    lines = (f"{p.relative_to(root)}\0{p.stat().st_size}\n" for p in files_below([root]))
    return "".join(lines).encode(errors="surrogateescape")
