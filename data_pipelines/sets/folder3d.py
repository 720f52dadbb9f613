"""A folder of one's own volumes in NIfTI files, with labels for some or all."""

import gzip
import logging
import math
import re
import struct
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from nibabel.wrapstruct import WrapStructError

from data_pipelines.builder import Source, files_by_name
from data_pipelines.errors import DataError
from data_pipelines.files import claims
from data_pipelines.sets.volume_set import LARGEST, VolumeSetBuilder, standardize

_SUFFIXES = (".nii.gz", ".nii")
# Of what is mended in headers, which anything might stand in.
_UNHEARD = logging.Logger("nifti", logging.CRITICAL)
_FARTHEST = 1e6  # mm; a kilometre
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    OverflowError,
    struct.error,
    zlib.error,
    HeaderDataError,
    WrapStructError,
)


class Folder3D(VolumeSetBuilder):
    """images/NAME.nii[.gz] and labels/NAME.nii[.gz], nonzero inside.

    Each volume is standardised to zero mean and unit variance; its voxels stay what they are.
    """

    archives = ()
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "put the volumes (.nii or .nii.gz) into DATA_DIR/folder3d/images (or, for a set named "
        "folder3d:SUBDIR, into DATA_DIR/SUBDIR/images) and their labels into labels/ under the "
        "same names"
    )

    def __init__(
        self, *, source_dir: str | Path, prepared_dir: str = "", leave_out: Collection[str] = ()
    ):
        source_dir = Path(source_dir)
        name = "folder3d" if source_dir.name == "folder3d" else f"folder3d_{source_dir.name}"
        super().__init__(
            source_dir=source_dir,
            prepared_dir=prepared_dir,
            name=re.sub(r"\W", "_", name),
            leave_out=leave_out,
        )

    def find(self, roots: Sequence[Path]) -> list[Source]:
        volumes, labels = (
            files_by_name(roots[0] / folder, _SUFFIXES) for folder in ("images", "labels")
        )
        if not volumes:
            raise self.missing(f"no volumes ({', '.join(_SUFFIXES)}) in images/")
        for name, path in labels.items():
            if name not in volumes:
                raise DataError(
                    f"{path} is a label without a volume; add images/{name}.nii.gz or remove it"
                )
        return [
            Source(
                id=name,
                group=name,
                image=path,
                masks=(labels[name],) if name in labels else (),
            )
            for name, path in volumes.items()
        ]

    def read(self, source: Source) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        assert source.image is not None
        values, affine = _read(source.image)
        if not source.masks:
            return standardize(values), None, affine
        label, lies = _read(source.masks[0])
        if label.shape == values.shape and not np.allclose(lies, affine, atol=1e-2):
            raise DataError(
                f"{source.masks[0]} lies elsewhere in space than {source.image} (their affine "
                "matrices differ); export the label again on the grid of its volume"
            )
        return standardize(values), label, affine


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values and affine of a NIfTI file.

    Extensions of its header are passed over: they may hold what says who was imaged.
    """
    packed = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            header = _header(file.read(Nifti2Header.sizeof_hdr))
            shape, dtype = header.get_data_shape(), header.get_data_dtype()
            if dtype.kind not in "iuf" or dtype.itemsize > 8:
                raise ValueError(f"voxels of type {dtype}")
            size = math.prod(shape) * dtype.itemsize
            needed = size / claims.MOST_PACKED if packed else size
            claims.check(path, shape, "voxels", most=LARGEST, needed=needed)
            file.seek(header.get_data_offset())
            content = file.read(size)
        if len(content) < size:
            raise EOFError("the file ends early")
        slope, inter = header.get_slope_inter()
        affine = np.asarray(header.get_best_affine(), np.float64)
    except DataError:
        raise
    except _UNREADABLE as error:
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path} cannot be read as NIfTI ({reason}); copy or export the file again"
        ) from error
    if not np.abs(affine).max() < _FARTHEST:
        raise DataError(f"{path} has an affine matrix beyond all measure; export the volume again")
    values = np.frombuffer(content, dtype).reshape(shape, order="F")
    with np.errstate(all="ignore"):  # values that are not finite are told of later
        scaled = apply_read_scaling(values, slope, inter)
    return scaled.astype(scaled.dtype.newbyteorder("="), copy=False), affine


def _header(start: bytes) -> Nifti1Header:
    """The header that a file begins with, of either version and byte order."""
    second = [struct.pack(f"{order}i", Nifti2Header.sizeof_hdr) for order in "<>"]
    kind = Nifti2Header if start[:4] in second else Nifti1Header
    header = kind(start[: kind.sizeof_hdr], check=False)
    header.check_fix(_UNHEARD)
    if header["magic"].item()[:3] not in (b"n+1", b"n+2"):
        raise ValueError("it is no single NIfTI file")
    return header
