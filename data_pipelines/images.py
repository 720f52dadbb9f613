"""Image files to arrays: decoding, grey values, resizing."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.errors import DataError

_DEEP_MODES = ("I", "F")  # besides I;16, I;16B, ...: more than 8 bits for each pixel
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


def _decode(path: Path) -> np.ndarray:
    """The pixels of the first frame: uint8 grey, or the file's own numbers where it is deeper."""
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes); copy or download the file again")
    try:
        with Image.open(path) as image:
            if image.mode in _DEEP_MODES or image.mode.startswith("I;16"):
                return np.asarray(image)
            if image.mode in ("P", "PA"):  # the direct way warns where the palette has alpha
                return np.asarray(image.convert("RGBA").convert("L"))
            return np.asarray(image.convert("L"))
    except _UNREADABLE as error:
        raise DataError(
            f"{path} cannot be read as an image ({error}); copy or download the file again"
        ) from error


def read_gray(path: Path) -> np.ndarray:
    """Reads an image as grey values, float32 [H, W] in 0..255.

    Colour becomes luminance (ITU-R 601) and transparency is ignored. Values of 8 bits stay as they
    are; deeper ones (12 or 16 bits, float) are stretched so that the image's own minimum becomes 0
    and its maximum 255, because such files use an unknown part of their range.

    Raises:
        DataError: the file is empty, truncated or not an image, or holds numbers not finite.
    """
    values = _decode(path)
    if values.dtype == np.uint8:
        return values.astype(np.float32)
    return stretch(values, path)


def stretch(values: np.ndarray, path: Path) -> np.ndarray:
    """Maps [min, max] of `values` [H, W] to 0..255, float32; an image of one value becomes 0."""
    stretched = values.astype(np.float32)
    low, high = stretched.min(), stretched.max()
    if not np.isfinite([low, high]).all():
        raise DataError(f"{path} holds values that are not finite; export the image again")
    stretched -= low
    stretched *= 255 / (high - low) if high > low else 0
    return stretched


def read_mask(path: Path) -> np.ndarray:
    """Reads a mask, bool [H, W]: True above half of the full scale.

    The full scale is 1, 255 or 65535, whichever first holds the largest value, so masks of {0, 1}
    and of {0, 255}, with hard or soft edges, read alike.

    Raises:
        DataError: as for `read_gray`.
    """
    values = _decode(path)
    highest = values.max()
    full_scale = 1 if highest <= 1 else 255 if highest <= 255 else 65535
    return values > full_scale / 2


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes grey values [H, W] in 0..255 to uint8 [size, size], bilinear and antialiased.

    The aspect ratio is not kept: height and width are scaled independently.
    """
    resized = Image.fromarray(image.astype(np.float32)).resize(
        (size, size), Image.Resampling.BILINEAR
    )
    return np.clip(np.rint(np.asarray(resized)), 0, 255).astype(np.uint8)


def resize_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Resizes a mask bool [H, W] to uint8 [size, size]: 1 where at least half of the area is in."""
    covered = Image.fromarray(mask.astype(np.float32)).resize((size, size), Image.Resampling.BOX)
    return (np.asarray(covered) >= 0.5).astype(np.uint8)
