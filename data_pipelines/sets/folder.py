"""A folder of one's own images, with masks, with class labels, or with both."""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.files import IMAGE_SUFFIXES, images, what_is
from data_pipelines.files.paths import files_below, files_by_name, size_of
from data_pipelines.findings import NOTE, Problem
from data_pipelines.sets import folder_masks, folder_patients, folder_table, mask_values
from data_pipelines.sets.image_set import ImageSetBuilder
from data_pipelines.source import Roots, Source
from multimix_jax.labels import LabelSpec

_MEANINGS = "masks.json"  # beside a prepared set


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
        mask_values: str = "",
        **options: Any,
    ):
        """Folders and the table may lie elsewhere: where `images` is given, nothing is looked for
        in `source_dir`. `mask_values` says what the values of masks mean, as `mask_values.parse`
        has it; by default that is found by looking at them. The other options are those of
        `ImageSetBuilder`.
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
        self.table = folder_table.read(self.labels)
        self.masks_inside: Path | None = None  # of the images
        self.mask_folders: dict[str, Path] = {}
        if self.masks is not None and self.masks.is_dir():
            self.masks_inside = folder_masks.inside(self.masks, self.images)
            self.mask_folders = folder_masks.folders(self.masks, self.images)
        self.mask_values = mask_values
        super().__init__(source_dir=home, name=re.sub(r"\W", "_", name), **options)

    def fingerprint(self) -> str:
        below = files_below(filter(None, (self.images, self.masks)))
        # Of these it does not matter what a preparation then finds to be no image.
        named = lambda path: path.name.lower().endswith(IMAGE_SUFFIXES)
        files = (path for path in below if named(path) or not what_is(path))
        rows = sorted(repr(dataclasses.replace(row, line="")) for row in self.table.rows)
        inside = self.masks_inside and self.masks_inside.relative_to(self.images)
        words = str(inside), *self.mask_folders, self.mask_values, *self.table.spec.class_names
        return self.digest(files, *words, *rows)

    @functools.cached_property
    def meanings(self) -> mask_values.Found:
        """Of the values of all masks, or of those in each folder of masks; see `mask_values`. All
        files are looked at, unless that was done when the set was prepared."""
        roots = self._mask_roots()
        if self.mask_values:
            found = [mask_values.parse(self.mask_values)] * len(roots)
        elif (note := self.index_path.with_name(_MEANINGS)).exists():
            found = mask_values.from_json(note.read_text())
        else:
            found = mask_values.find_in(tuple(roots), self.files_digest, self.exclude)
        if self.mask_folders:
            mask_values.refuse_classes(found, roots)
        return found

    @functools.cached_property
    def label_spec(self) -> LabelSpec:  # type: ignore[override]
        found = [meaning for meaning in self.meanings if meaning]
        names = tuple(self.mask_folders) or (found[0].names if found else ())
        void = any(meaning.void for meaning in found)
        return dataclasses.replace(self.table.spec, mask_names=names, void=void)

    def listed(self, scratch: Path) -> tuple[list[Source], list[Problem]]:
        sources, problems = super().listed(scratch)
        meant = dict.fromkeys(str(meaning) for meaning in self.meanings if meaning)
        return sources, [*problems, *(Problem("values of masks", NOTE, text) for text in meant)]

    def _write_index(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self.index_path.with_name(_MEANINGS).write_text(mask_values.to_json(self.meanings))
        super()._write_index(rows)

    def _mask_roots(self) -> list[Path]:
        if self.masks is None or not self.masks.is_dir():
            return []
        return list(self.mask_folders.values()) or [self.masks]

    def places(self) -> str:
        return "\n".join(str(p and p.resolve()) for p in (self.images, self.masks, self.labels))

    def missing(self, what: str) -> DataError:
        if not self.images_named:
            return super().missing(what)
        return DataError(f"{what}; set --config.folder.images to the folder that has them")

    def contents(self) -> dict[str, str]:
        """Digests that tell images, masks and labels from others, wherever they lie: of the names
        and sizes of the files that are used, and of what the table says; '' of what there is none.
        """
        sources = sorted(self.find([self.source_dir]), key=lambda source: source.id)
        size = lambda path: path and size_of(path)
        contents = {
            "images": [(s.id, size(s.image)) for s in sources],
            "masks": [
                *((s.id, self._place_of(m), size(m)) for s in sources for m in s.masks),
                *(s.id for s in sources if s.empty),
            ],
            "labels": [one for s in sources if (one := _stated(s))[1:] != (-1, 0, s.id, "")],
        }
        words = {
            "masks": (*self.mask_folders, self.mask_values),
            "labels": self.table.spec.class_names,
        }
        digest = lambda *values: hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]
        return {k: digest(v, words.get(k)) if v else "" for k, v in contents.items()}

    def find(self, roots: Roots) -> list[Source]:
        apart = self.masks_inside, self.labels
        files = files_by_name(self.images, IMAGE_SUFFIXES, what_is, apart)
        if not files:
            raise self.missing(f"no images ({', '.join(IMAGE_SUFFIXES)}) in {self.images}")
        folder_masks.refuse_beside(files)
        masks = self._find_masks(files)
        row_of = self._match_rows(files)
        stated = {name: row.patient for name, row in row_of.items() if row.patient}
        patients = folder_patients.groups(files, stated)
        sources = []
        for name, path in files.items():
            row = row_of.get(name, folder_table.Row())
            sources.append(
                Source(
                    name,
                    group=patients[name],
                    split=row.split or folder_table.split_of(name.partition("/")[0]) or "",
                    image=path,
                    masks=tuple(masks.get(name, ())),
                    label=row.label,
                    empty=row.annotated,
                    unknown=row.unknown,
                )
            )
        return sources

    def _match_rows(self, files: Mapping[str, Path]) -> dict[str, folder_table.Row]:
        """The row of each image that the table names, with or without suffix."""
        names = {name + path.suffix: name for name, path in files.items()} | dict(zip(files, files))
        row_of: dict[str, folder_table.Row] = {}
        for row in self.table.rows:
            if row.image not in names:
                raise DataError(
                    f"{row.line} names the image {row.image!r}, which is not in {self.images}; "
                    "add the image or remove the row"
                )
            if names[row.image] in row_of:
                raise DataError(f"{row.line} is a second row for {row.image!r}; remove one of them")
            row_of[names[row.image]] = row
        return row_of

    def _find_masks(self, files: Mapping[str, Path]) -> dict[str, list[Path]]:
        """The mask files of each image."""
        masks: dict[str, list[Path]] = {}
        for root in self._mask_roots():
            of_root = files_by_name(root, IMAGE_SUFFIXES, what_is)
            for name, path in folder_masks.match(of_root, files).items():
                if path.suffix.lower() not in images.SUFFIXES:
                    raise DataError(f"{path}: a mask cannot be DICOM; export it as PNG")
                if name not in files:
                    raise DataError(
                        f"{path} is a mask without an image; add {self.images / name}.* or remove "
                        "the mask, or give each mask the name of its image, or that with "
                        f"{', '.join(folder_masks.ENDINGS[:3])}, ... behind it"
                    )
                masks.setdefault(name, []).append(path)
        return masks

    def _place_of(self, mask: Path) -> int:
        """Which of the folders of masks a file is in."""
        return next((n for n, root in enumerate(self._mask_roots()) if root in mask.parents), 0)

    def planes(self, path: Path) -> np.ndarray:
        place = self._place_of(path)
        meaning = self.meanings[place] if self.meanings else None
        planes = meaning.read(path) if meaning else super().planes(path)
        count = len(self.mask_folders)
        return mask_values.spread(planes, place, count) if count else planes


def _stated(source: Source) -> tuple[str, int, int, str, str]:
    return source.id, source.label, source.unknown, source.group, source.split
