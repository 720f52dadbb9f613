"""Arrays in HDF5 files."""

import math
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from data_pipelines.errors import DataError, refuse_damaged
from data_pipelines.files import claims
from data_pipelines.files.volume import LARGEST

_REMEDY = "download the file again"


def read(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Reads arrays of numbers by name; what a file only refers to in other files is refused.

    Raises:
        DataError: the file is damaged, lacks one of them, or cannot hold as much as it claims.
    """
    with refuse_damaged(path, "read as HDF5", f"copy or {_REMEDY}"), h5py.File(path) as file:
        missing = sorted(set(names) - set(file))
        if missing:
            raise DataError(
                f"{path} has no {' and no '.join(map(repr, missing))} (it has "
                f"{', '.join(map(repr, file)) or 'nothing'}); {_REMEDY}"
            )
        return [_array(path, file, name) for name in names]


def _array(path: Path, file: h5py.File, name: str) -> np.ndarray:
    data = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external:
        raise DataError(f"{name!r} in {path} is not an array in that file; {_REMEDY}")
    if data.shape is None or data.dtype.kind not in "biuf" or data.dtype.itemsize > 8:
        raise DataError(f"{name!r} in {path} does not hold numbers; {_REMEDY}")
    needed = math.prod(data.shape) * data.dtype.itemsize / claims.MOST_PACKED
    claims.check(path, data.shape, "voxels", most=LARGEST, needed=needed)
    if data.chunks and math.prod(data.chunks) > LARGEST:
        raise DataError(f"{name!r} in {path} lies in parts that are far too large; {_REMEDY}")
    return data[()]
