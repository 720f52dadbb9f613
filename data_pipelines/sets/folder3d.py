"""A folder of one's own volumes in NIfTI files, with labels for some or all."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.files import volume
from data_pipelines.files.paths import files_by_name
from data_pipelines.sets.folder_masks import ENDINGS, match
from data_pipelines.sets.volume_set import DecodedVolume, VolumeSetBuilder, standardize
from data_pipelines.source import Roots, Source


class Folder3D(VolumeSetBuilder):
    """images/NAME.nii[.gz] and labels/NAME.nii[.gz], nonzero inside.

    Each volume is standardised to zero mean and unit variance; its voxels stay what they are.
    """

    files = tuple(f"*{suffix}" for suffix in volume.SUFFIXES)
    archives = ()
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "put the volumes (.nii or .nii.gz) into DATA_DIR/folder3d/images (or, for a set named "
        "folder3d:SUBDIR, into DATA_DIR/SUBDIR/images) and their labels into labels/ under the "
        "same names"
    )

    def __init__(self, *, source_dir: str | Path, **options: Any):
        source_dir = Path(source_dir)
        name = "folder3d" if source_dir.name == "folder3d" else f"folder3d_{source_dir.name}"
        super().__init__(source_dir=source_dir, name=re.sub(r"\W", "_", name), **options)

    def find(self, roots: Roots) -> list[Source]:
        volumes, labels = (
            files_by_name(roots[0] / folder, volume.SUFFIXES) for folder in ("images", "labels")
        )
        if not volumes:
            raise self.missing(f"no volumes ({', '.join(volume.SUFFIXES)}) in images/")
        labels = match(labels, volumes)
        for name, path in labels.items():
            if name not in volumes:
                raise DataError(
                    f"{path} is a label without a volume; add images/{name}.nii.gz or remove it, "
                    f"or name all labels like their volumes, with {', '.join(ENDINGS[3:6])} behind "
                    "or without"
                )
        masks = lambda name: (labels[name],) if name in labels else ()
        return [Source(name, name, "", path, masks(name)) for name, path in volumes.items()]

    def read(self, source: Source) -> DecodedVolume:
        assert source.image is not None
        values, affine = volume.read(source.image)
        if not source.masks:
            return standardize(values), None, affine
        label, label_affine = volume.read(source.masks[0])
        if label.shape == values.shape and not np.allclose(label_affine, affine, atol=1e-2):
            raise DataError(
                f"{source.masks[0]} lies elsewhere in space than {source.image} (their affine "
                "matrices differ); export the label again on the grid of its volume"
            )
        return standardize(values), label, affine
