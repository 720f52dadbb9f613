"""The left atria of the 2018 challenge (Xiong et al. 2021), as its benchmark distributes them."""

import os
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.files import hdf5, table
from data_pipelines.prepare import Source
from data_pipelines.sets.volume_set import DecodedVolume, VolumeSetBuilder

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
        assert source.image is not None
        image, label = hdf5.read(source.image, ("image", "label"))
        return image, label, None
