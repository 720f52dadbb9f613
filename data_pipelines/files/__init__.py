"""Files to arrays: each reader gives what is in a file, or one error that names it."""

from pathlib import Path

import numpy as np
from pydicom.misc import is_dicom

from data_pipelines.files import dicom, images
from data_pipelines.findings import WARNING, note

IMAGE_SUFFIXES = (*images.SUFFIXES, *dicom.SUFFIXES)


def read_image(path: Path, channels: int = 1) -> tuple[np.ndarray, tuple[float, float]]:
    """Reads an image of any kind in IMAGE_SUFFIXES; see `images.read` and `dicom.read`.

    Gives float32 [H, W] in 0..255, or [H, W, 3] of colour for 3 channels; and the millimetres from
    one row and from one column to the next, (0, 0) where unknown.
    """
    named = path.suffix.lower() in dicom.SUFFIXES
    if named != is_dicom(path):
        note(images.WRONG_TYPE, WARNING, f"{path} is {'no' if named else 'a'} DICOM file")
    if named:
        return dicom.read(path, channels)
    return images.read(path, channels), (0.0, 0.0)
