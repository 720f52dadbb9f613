"""The Montgomery County radiographs with lung masks (Jaeger et al. 2014)."""

from data_pipelines.files.paths import files_below
from data_pipelines.sets.image_set import DecodedImage, ImageSetBuilder, find_lungs
from data_pipelines.source import Roots, Source

_NAME = r"MCUCXR_\d{4}_[01]"
_OFFICIAL_SHAPES = ((4020, 4892), (4892, 4020))
_SPACING = 0.0875  # millimetres, at the official shapes


class Mcu(ImageSetBuilder):
    """CXR_png with ManualMask/{leftMask,rightMask}, or images/*.png with masks/*.png.

    The name tells tuberculosis (_1) from normal (_0); that is not a label used here.
    """

    files = ("*.png",)
    complete = 138
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "the Montgomery County chest X-ray set of the US National Library of Medicine (folder "
        "MontgomerySet, from the NLM's tuberculosis chest X-ray data sets page); put the archive, "
        "or MontgomerySet, into DATA_DIR/mcu"
    )

    def find(self, roots: Roots) -> list[Source]:
        files = (path for path in files_below(roots) if path.suffix.lower() == ".png")
        due = "MCUCXR_*.png", "ManualMask/leftMask/ and rightMask/"
        films = find_lungs(self, files, _NAME, due, ("leftMask", "rightMask"))
        patient = lambda name: name.split("_")[1]
        return [Source(name, patient(name), "", path, masks) for name, path, masks in films]

    def read(self, source: Source) -> DecodedImage:
        image, mask, unknown = super().read(source)
        full_size = image.shape[:2] in _OFFICIAL_SHAPES
        return image, mask, (_SPACING, _SPACING) if full_size else unknown
