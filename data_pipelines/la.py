"""The left atria of the 2018 challenge (Xiong et al. 2021), as its benchmark distributes them."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from data_pipelines.builder import Source
from data_pipelines.errors import DataError
from data_pipelines.volume_set import VolumeSetBuilder

_FOLDER = "2018LA_Seg_Training Set"
_FILE = "mri_norm2.h5"


class La(VolumeSetBuilder):
    """`2018LA_Seg_Training Set/ID/mri_norm2.h5`, train.list and test.list: 80 and 20 volumes.

    The volumes are standardised and cropped around the atrium by the benchmark, the test ones too.
    """

    complete = 100
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "the folder '2018LA_Seg_Training Set' of h5 files with train.list and test.list, as the "
        "repositories of UA-MT (Yu et al. 2019) or DTC (Luo et al. 2021) offer them; put both into "
        "DATA_DIR/la"
    )

    def find(self, roots: Sequence[Path]) -> list[Source]:
        sources: dict[str, Source] = {}
        for split in ("train", "test"):
            lists = [path for root in roots if (path := root / f"{split}.list").exists()]
            if not lists:
                raise self.missing(f"no {split}.list")
            path = lists[0]
            names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
            names = [name for name in names if name]
            if not names:
                raise DataError(f"{path} is empty; it must name a volume on each line")
            for name in names:
                found = [p for root in roots if (p := root / _FOLDER / name / _FILE).exists()]
                if not found:
                    raise DataError(
                        f"{path} names {name}, but {roots[0] / _FOLDER / name / _FILE} does not "
                        "exist; add the volume or remove the line"
                    )
                if name in sources:
                    raise DataError(
                        f"{path} names {name}, which is listed already (as {sources[name].split}); "
                        "remove one of the lines"
                    )
                sources[name] = Source(id=name, group=name, split=split, image=found[0])
        return list(sources.values())

    def read(self, source: Source) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        path = source.image
        assert path is not None
        try:
            with h5py.File(path) as file:
                missing = sorted({"image", "label"} - set(file))
                if missing:
                    raise DataError(
                        f"{path} has no {' and no '.join(map(repr, missing))} (it has "
                        f"{', '.join(map(repr, file)) or 'nothing'}); download the file again"
                    )
                return file["image"][:], file["label"][:], None
        except OSError as error:
            raise DataError(
                f"{path} cannot be read as HDF5 ({error}); copy or download the file again"
            ) from error
