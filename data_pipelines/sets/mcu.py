"""The Montgomery County radiographs with lung masks (Jaeger et al. 2014)."""

import collections
import re
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.files.paths import files_below
from data_pipelines.prepare import Source
from data_pipelines.sets.image_set import DecodedImage, ImageSetBuilder, lung_masks

_NAME = re.compile(r"MCUCXR_(\d{4})_[01]")
_OFFICIAL_SHAPES = ((4020, 4892), (4892, 4020))
_SPACING = 0.0875  # millimetres, at the official shapes


class Mcu(ImageSetBuilder):
    """CXR_png with ManualMask/{leftMask,rightMask}, or images/*.png with masks/*.png.

    The name tells tuberculosis (_1) from normal (_0); that is not a label used here.
    """

    complete = 138
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "the Montgomery County chest X-ray set of the US National Library of Medicine (folder "
        "MontgomerySet, from the NLM's tuberculosis chest X-ray data sets page); put the archive, "
        "or MontgomerySet, into DATA_DIR/mcu"
    )

    def find(self, roots: Sequence[Path]) -> list[Source]:
        images: dict[str, Path] = {}
        masks: dict[str, dict[str, Path]] = collections.defaultdict(dict)
        for path in files_below(roots):
            if not _NAME.fullmatch(path.stem) or path.suffix.lower() != ".png":
                continue
            if path.parent.name in ("masks", "leftMask", "rightMask"):
                masks[path.stem].setdefault(path.parent.name, path)
            else:
                images.setdefault(path.stem, path)
        if not images:
            raise self.missing("no images MCUCXR_*.png")
        if not masks:
            raise self.missing("no masks in masks/ or in ManualMask/leftMask/ and rightMask/")
        return [
            Source(
                id=name,
                group=name.split("_")[1],
                image=path,
                masks=lung_masks(masks[name], "leftMask", "rightMask"),
            )
            for name, path in images.items()
        ]

    def read(self, source: Source) -> DecodedImage:
        image, mask, unknown = super().read(source)
        full_size = image.shape[:2] in _OFFICIAL_SHAPES
        return image, mask, (_SPACING, _SPACING) if full_size else unknown
