"""Files to arrays: each reader gives what is in a file, or one error that names it."""

import contextlib
from pathlib import Path

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.files import dicom, images
from data_pipelines.files.paths import (
    DICOM_OTHER,
    passed_over,
    require_file,
    size_of,
    sort_out,
    suffix_of,
)
from data_pipelines.findings import WARNING, note

IMAGE_SUFFIXES = (*images.SUFFIXES, *dicom.SUFFIXES)


def what_is(path: Path) -> str:
    """'' of an image that `read_image` takes: by its suffix, or a DICOM file of any name; of other
    files their kind, for `paths.sort_out`.
    """
    suffix = path.suffix.lower()
    if suffix in images.SUFFIXES:
        return ""
    kind = "image" if suffix in dicom.SUFFIXES else ""  # reading it says why it cannot be
    if size_of(path) >= 0:
        with contextlib.suppress(OSError):
            kind = dicom.kind_of(path) or kind
    return {"image": "", "other": DICOM_OTHER}.get(kind, suffix_of(path))


def images_below(folder: Path) -> tuple[list[Path], str]:
    """The images that `read_image` takes, and what to say of the other files, '' of none."""
    used, others = sort_out(folder, what_is)
    return used, passed_over(others)


def orientation(path: Path) -> int:
    """How the stored pixels of an image are turned against what `read_image` gives; see
    `images.orientation`."""
    if dicom.kind_of(path):
        return 1
    with images.open_file(path) as (image, _):
        return images.orientation(path, image)


def read_image(path: Path, channels: int = 1) -> tuple[np.ndarray, tuple[float, float]]:
    """Reads an image as what it is by its content; see `images.read` and `dicom.read`.

    Gives float32 [H, W] in 0..255, or [H, W, 3] of colour for 3 channels; and the millimetres from
    one row and from one column to the next, (0, 0) where unknown.
    """
    require_file(path)
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
