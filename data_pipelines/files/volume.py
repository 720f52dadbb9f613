"""Volumes in NIfTI files."""

import gzip
import logging
import math
from pathlib import Path

import numpy as np
from nibabel import Nifti1Header, Nifti2Header
from nibabel.volumeutils import apply_read_scaling

from data_pipelines.errors import MOST_PACKED, DataError, refuse_claim, refuse_damaged

SUFFIXES = (".nii.gz", ".nii")
LARGEST = 2**28  # voxels; those of the official set have up to 25 million
_FARTHEST = 1e6  # mm; a kilometre
# Takes what nibabel says of faulty headers, which may quote anything that stands in them.
_SILENT = logging.Logger("nifti", logging.CRITICAL)


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values, with slope and intercept applied, and affine [4, 4] from voxels to millimetres.

    Extensions of the header are passed over: they may hold who was imaged. Raises DataError for
    what is damaged, of another kind or too large, or lies absurdly far away.
    """
    packed = path.name.lower().endswith(".gz")
    with refuse_damaged(path, "read as NIfTI", "copy or export the file again"):
        with gzip.open(path) if packed else path.open("rb") as file:
            start = file.read(Nifti2Header.sizeof_hdr)
            kind = Nifti2Header if Nifti2Header.may_contain_header(start) else Nifti1Header
            header = kind(start[: kind.sizeof_hdr], check=False)
            header.check_fix(_SILENT)
            if header["magic"].item()[:3] not in (b"n+1", b"n+2"):
                raise ValueError("it is no single NIfTI file")
            shape, dtype = header.get_data_shape(), header.get_data_dtype()
            if dtype.kind not in "iuf" or dtype.itemsize > 8:
                raise ValueError(f"voxels of type {dtype}")
            size = math.prod(shape) * dtype.itemsize
            needed = size / MOST_PACKED if packed else size
            refuse_claim(path, shape, "voxels", most=LARGEST, needed=needed)
            file.seek(header.get_data_offset())
            content = file.read(size)
        if len(content) < size:
            raise EOFError("the file ends early")
        slope, intercept = header.get_slope_inter()
        affine = np.asarray(header.get_best_affine(), np.float64)
    if not np.abs(affine).max() < _FARTHEST:
        raise DataError(f"{path} has an affine matrix beyond all measure; export the volume again")
    values = np.frombuffer(content, dtype).reshape(shape, order="F")
    with np.errstate(all="ignore"):  # values that are not finite are refused later
        scaled = apply_read_scaling(values, slope, intercept)
    return scaled.astype(scaled.dtype.newbyteorder("="), copy=False), affine
