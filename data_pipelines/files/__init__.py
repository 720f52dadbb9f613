"""Files to arrays: each reader gives what is in a file, or one error that names it."""

from pathlib import Path

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.files import dicom, images
from data_pipelines.findings import WARNING, note

IMAGE_SUFFIXES = (*images.SUFFIXES, *dicom.SUFFIXES)


def read_image(path: Path, channels: int = 1) -> tuple[np.ndarray, tuple[float, float]]:
    """Reads an image as what it is by its content; see `images.read` and `dicom.read`.

    Gives float32 [H, W] in 0..255, or [H, W, 3] of colour for 3 channels; and the millimetres from
    one row and from one column to the next, (0, 0) where unknown.
    """
    suffix = path.suffix.lower()
    if dicom.kind_of(path):
        if suffix in images.SUFFIXES:
            note(images.WRONG_TYPE, WARNING, f"{path} is a DICOM file")
        return dicom.read(path, channels)
    try:
        return images.read(path, channels), (0.0, 0.0)
    except DataError:
        if suffix in dicom.SUFFIXES:
            return dicom.read(path, channels)
        raise
