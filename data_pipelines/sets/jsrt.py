"""The JSRT radiographs (2000) with the lung masks of the SCR database."""

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.files.images import stretch
from data_pipelines.files.paths import files_below
from data_pipelines.sets.image_set import DecodedImage, ImageSetBuilder, find_lungs
from data_pipelines.source import Roots, Source

_NAME = r"JPC[LN]N\d{3}"
_SIDE = 2048  # pixels of an official image; its SCR masks have half as many
_SPACING = 0.175  # millimetres
_HIGHEST = 4095  # 12 bits


class Jsrt(ImageSetBuilder):
    """Official .IMG images with SCR masks, or images/*.png with masks/*.png.

    The official split is SCR's: odd numbers (fold 1) train, even numbers (fold 2) test.
    """

    files = ("*.img", "*.png", "*.gif")
    complete = 247
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "the images (All247images.zip) from the JSRT database page of the Japanese Society of "
        "Radiological Technology, and the masks from the SCR database (segmentation in chest "
        "radiographs; Image Sciences Institute, Utrecht, or its copy on Zenodo); put the archives, "
        "or their folders, into DATA_DIR/jsrt"
    )

    def find(self, roots: Roots) -> list[Source]:
        due = "JPC*.IMG or JPC*.png", "masks/left lung/ and masks/right lung/"
        films = find_lungs(self, files_below(roots), _NAME, due, ("left lung", "right lung"))
        split = lambda name: "train" if int(name[-1]) % 2 else "test"
        return [Source(name, name, split(name), path, masks) for name, path, masks in films]

    def read(self, source: Source) -> DecodedImage:
        path = source.image
        if path is None or path.suffix.lower() != ".img":
            return super().read(source)
        size, expected = path.stat().st_size, 2 * _SIDE**2
        if size != expected:
            raise DataError(
                f"{path} has {size} bytes, but a raw {_SIDE}x{_SIDE} 16-bit image has {expected}; "
                "copy or download the file again"
            )
        values = np.fromfile(path, dtype=">u2").reshape(_SIDE, _SIDE)  # low values are bright
        image = stretch(_HIGHEST - values.astype(np.int32), path)
        mask = self.read_masks(source, (_SIDE // 2, _SIDE // 2))
        if mask is not None:
            mask = mask.repeat(2, axis=0).repeat(2, axis=1)
        return image, mask, (_SPACING, _SPACING)
