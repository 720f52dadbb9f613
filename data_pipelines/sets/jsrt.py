"""The JSRT radiographs (2000) with the lung masks of the SCR database."""

import collections
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.files.images import stretch
from data_pipelines.files.paths import files_below
from data_pipelines.prepare import Source
from data_pipelines.sets.image_set import DecodedImage, ImageSetBuilder, lung_masks

_NAME = re.compile(r"JPC[LN]N(\d{3})")
_SIDE = 2048  # pixels of an official image; its SCR masks have half as many
_SPACING = 0.175  # millimetres
_HIGHEST = 4095  # 12 bits


class Jsrt(ImageSetBuilder):
    """Official .IMG images with SCR masks, or images/*.png with masks/*.png.

    The official split is SCR's: odd numbers (fold 1) train, even numbers (fold 2) test.
    """

    complete = 247
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "the images (All247images.zip) from the JSRT database page of the Japanese Society of "
        "Radiological Technology, and the masks from the SCR database (segmentation in chest "
        "radiographs; Image Sciences Institute, Utrecht, or its copy on Zenodo); put the archives, "
        "or their folders, into DATA_DIR/jsrt"
    )

    def find(self, roots: Sequence[Path]) -> list[Source]:
        images: dict[str, Path] = {}
        masks: dict[str, dict[str, Path]] = collections.defaultdict(dict)
        for path in files_below(roots):
            folder, suffix = path.parent.name, path.suffix.lower()
            if not _NAME.fullmatch(path.stem):
                continue
            if folder in ("masks", "left lung", "right lung"):
                masks[path.stem].setdefault(folder, path)
            elif suffix in (".img", ".png") and path.parent.parent.name != "masks":
                images.setdefault(path.stem, path)
        if not images:
            raise self.missing("no images JPC*.IMG or JPC*.png")
        if not masks:
            raise self.missing("no masks in masks/ or in masks/left lung/ and masks/right lung/")
        return [
            Source(
                id=name,
                group=name,
                split="train" if int(name[-1]) % 2 else "test",
                image=path,
                masks=lung_masks(masks[name], "left lung", "right lung"),
            )
            for name, path in images.items()
        ]

    def read(self, source: Source) -> DecodedImage:
        if source.image is None or source.image.suffix.lower() != ".img":
            return super().read(source)
        image = _read_raw(source.image)
        mask = self.read_masks(source, (_SIDE // 2, _SIDE // 2))
        if mask is not None:
            mask = mask.repeat(2, axis=0).repeat(2, axis=1)
        return image, mask, (_SPACING, _SPACING)


def _read_raw(path: Path) -> np.ndarray:
    """Reads a headerless big-endian 16-bit image, in which low values are bright."""
    expected = 2 * _SIDE**2
    size = path.stat().st_size
    if size != expected:
        raise DataError(
            f"{path} has {size} bytes, but a raw {_SIDE}x{_SIDE} 16-bit image has {expected}; "
            "copy or download the file again"
        )
    values = np.fromfile(path, dtype=">u2").reshape(_SIDE, _SIDE)
    return stretch(_HIGHEST - values.astype(np.int32), path)
