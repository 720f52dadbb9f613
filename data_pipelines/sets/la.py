"""The left atria of the 2018 challenge (Xiong et al. 2021), as its benchmark distributes them."""

import math
import os
from pathlib import Path

import h5py
import numpy as np

from data_pipelines.errors import MOST_PACKED, DataError, refuse_claim, refuse_damaged
from data_pipelines.files import table
from data_pipelines.files.volume import LARGEST
from data_pipelines.sets.volume_set import DecodedVolume, VolumeSetBuilder
from data_pipelines.source import Roots, Source

_FOLDER = "2018LA_Seg_Training Set"
_FILE = "mri_norm2.h5"
_REMEDY = "download the file again"


class La(VolumeSetBuilder):
    """`2018LA_Seg_Training Set/ID/mri_norm2.h5`, train.list and test.list: 80 and 20 volumes.

    The volumes are standardised and cropped around the atrium by the benchmark, the test ones too.
    """

    files = (_FILE, "*.list")
    complete = 100
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "the folder '2018LA_Seg_Training Set' of h5 files with train.list and test.list, as the "
        "repositories of UA-MT (Yu et al. 2019) or DTC (Luo et al. 2021) offer them; put both into "
        "DATA_DIR/la"
    )

    def find(self, roots: Roots) -> list[Source]:
        sources: dict[str, Source] = {}
        for split in ("train", "test"):
            lists = [path for root in roots if (path := root / f"{split}.list").exists()]
            if not lists:
                raise self.missing(f"no {split}.list")
            path = lists[0]
            names = table.read_lines(path)
            if not names:
                raise DataError(f"{path} is empty; it must name a volume on each line")
            for name in names:
                if name == ".." or Path(name).name != name:
                    raise DataError(
                        f"{path} names {name!r}, which is not the name of a folder in {_FOLDER}; "
                        "remove the line"
                    )
                files = [root / _FOLDER / name / _FILE for root in roots]
                # `Path.exists` would fail of a name that is too long for one.
                volume = next(filter(os.path.exists, files), None)
                if volume is None:
                    raise DataError(
                        f"{path} names {name}, but {files[0]} does not exist; add the volume or "
                        "remove the line"
                    )
                if name in sources:
                    raise DataError(
                        f"{path} names {name}, which is listed already (as {sources[name].split}); "
                        "remove one of the lines"
                    )
                sources[name] = Source(id=name, group=name, split=split, image=volume)
        return list(sources.values())

    def read(self, source: Source) -> DecodedVolume:
        path, names = source.image, ("image", "label")
        assert path is not None
        with refuse_damaged(path, "read as HDF5", f"copy or {_REMEDY}"), h5py.File(path) as file:
            missing = sorted(set(names) - set(file))
            if missing:
                raise DataError(
                    f"{path} has no {' and no '.join(map(repr, missing))} (it has "
                    f"{', '.join(map(repr, file)) or 'nothing'}); {_REMEDY}"
                )
            image, label = (_array(path, file, name) for name in names)
        return image, label, None


def _array(path: Path, file: h5py.File, name: str) -> np.ndarray:
    """An array of numbers; what the file only refers to in other files is refused."""
    data = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external:
        raise DataError(f"{name!r} in {path} is not an array in that file; {_REMEDY}")
    if data.shape is None or data.dtype.kind not in "biuf" or data.dtype.itemsize > 8:
        raise DataError(f"{name!r} in {path} does not hold numbers; {_REMEDY}")
    needed = math.prod(data.shape) * data.dtype.itemsize / MOST_PACKED
    refuse_claim(path, data.shape, "voxels", most=LARGEST, needed=needed)
    if data.chunks and math.prod(data.chunks) > LARGEST:
        raise DataError(f"{name!r} in {path} lies in parts that are far too large; {_REMEDY}")
    return data[()]
