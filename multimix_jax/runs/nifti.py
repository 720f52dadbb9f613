"""Predictions as NIfTI files."""

import gzip
import pathlib

import nibabel
import numpy as np

from multimix_jax import atomic


def write_mask(path: pathlib.Path, mask: np.ndarray, affine: np.ndarray) -> None:
    """Writes a mask as a NIfTI file of uint8, whole or not at all; its folder is created.

    Args:
      path: ends in .nii.gz or .nii.
      mask: bool [X,Y,Z,C]; the last axis is left out where it has one entry.
      affine: [4,4] from voxels to millimetres; zeros where unknown: then a voxel counts as 1 mm.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    values = mask[..., 0] if mask.shape[-1] == 1 else mask
    image = nibabel.Nifti1Image(values.astype(np.uint8), affine if affine.any() else np.eye(4))
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    with atomic.replacing(path) as temporary:  # by name alone nibabel would not know what to write
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
