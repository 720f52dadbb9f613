"""Image files to arrays: decoding, grey values, resizing."""

import io
import re
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines.errors import MOST_PACKED, DataError, refuse_claim, refuse_damaged
from data_pipelines.findings import NOTE, WARNING, note

# The others that Pillow knows may run programs (EPS) or are never radiographs.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff")
LARGEST = 2**26  # pixels; the largest films of the official sets have 20 million
# Values closer together than this, or further apart, are past what float32 can stretch.
_LEAST, _MOST = 1e-30, float(np.finfo(np.float32).max)
_HARMLESS = 2**24  # pixels; some ways to pack so many need next to nothing
_ENOUGH = 2**18  # values that tell how the others lie
_LARGEST_FILE = 2**30  # bytes; the largest image allowed has fewer
WRONG_TYPE = "wrong type behind the extension"
_MODES = {"P": "palette", "PA": "palette", "CMYK": "CMYK", "RGB": "colour", "RGBA": "colour"}
_lock = threading.Lock()
_FILTERS: list[tuple[Any, ...]] = [
    ("error", None, Image.DecompressionBombWarning, None, 0),
    ("ignore", None, Warning, re.compile(r"PIL\b"), 0),
    ("ignore", None, Warning, re.compile(r"pydicom\b"), 0),
]


def set_filters() -> None:
    """Keeps warnings of Pillow and pydicom off the screen, but turns one of bombs into an error.

    To be called before each use, since test runners and others reset filters. `catch_warnings` is
    not safe in threads, and filters that are set already would be gone for a moment if set again.
    """
    with _lock:
        if warnings.filters[: len(_FILTERS)] != _FILTERS:
            for action, _, category, module, _ in reversed(_FILTERS):
                pattern = module.pattern if module else ""
                warnings.filterwarnings(action, module=pattern, category=category)


def opened(content: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Opens an image of one of the formats; no more than its header is decoded yet.

    Of a file, Pillow would set memory aside for any length that is claimed. It refuses an image
    that it finds far too large; for what it cannot read it raises exceptions of many kinds.
    """
    set_filters()
    return Image.open(io.BytesIO(content), formats=formats)


def read_values(path: Path, channels: int = 1) -> np.ndarray:
    """The pixels of the first frame: uint8 grey [H, W] or, of 3 channels, red, green and blue
    [H, W, 3]; or the file's own numbers [H, W] where it is deeper, which is always grey.

    Raises DataError where the file is empty, truncated, not an image or far too large.
    """
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path} is empty (0 bytes); copy or download the file again")
    if size > _LARGEST_FILE:
        raise DataError(f"{path} has {size} bytes, too many for an image; export it smaller")
    refusing = refuse_damaged(path, "read as an image", "copy or download the file again")
    with refusing, opened(path.read_bytes()) as image:
        _note_form(path, image)
        width, height = image.size
        needed = width * height / 8 / MOST_PACKED if width * height > _HARMLESS else 0
        refuse_claim(path, (height, width), "pixels", most=LARGEST, needed=needed)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # more than 8 bits a pixel
            return np.asarray(image)
        if image.mode in ("P", "PA"):  # to convert it directly warns where the palette has alpha
            image = image.convert("RGBA")
        return np.asarray(image.convert("L" if channels == 1 else "RGB"))


def _note_form(path: Path, image: Image.Image) -> None:
    """For the audit: how the pixels of an image are stored, where that is not the usual way."""
    mode, due = image.mode, Image.registered_extensions().get(path.suffix.lower())
    if image.format != due:
        note(WRONG_TYPE, WARNING, f"{path} is a {image.format} file")
    if mode in _MODES:
        note(_MODES[mode], NOTE, f"{path} has mode {mode}")
    if "transparency" in image.info or mode in ("LA", "PA", "RGBA"):
        note("transparency", NOTE, f"{path} has an alpha channel, which is not read")
    if mode.startswith(("I", "F")):
        note("more than 8 bits", NOTE, f"{path} has mode {mode}: stretched to 0..255")


def read(path: Path, channels: int = 1) -> np.ndarray:
    """Reads an image as grey values [H, W] or, of 3 channels, as colours [H, W, 3]; float32 0..255.

    As grey, colour becomes luminance (ITU-R 601); transparency is ignored. Values of 8 bits stay as
    they are; deeper ones (12 or 16 bits, float) are stretched so that the image's own minimum
    becomes 0 and its maximum 255, because such files use an unknown part of their range. Raises
    DataError as `read_values` does, and for numbers that are not finite.
    """
    values = read_values(path, channels)
    return values.astype(np.float32) if values.dtype == np.uint8 else stretch(values, path)


def stretch(values: np.ndarray, path: Path, counted: np.ndarray | None = None) -> np.ndarray:
    """Maps [min, max] of `values`, of those `counted` alone, to 0..255, float32; an image of one
    value becomes 0. Where few pixels, such as hot ones, make that range more than twice as wide as
    for the others, it is the range of the others (all but a thousandth at either end).
    """
    stretched = values.astype(np.float32)
    counting = stretched if counted is None else stretched[counted]
    low, high = counting.min(), counting.max()
    if not float(high) - float(low) <= _MOST:  # so for NaN, too
        raise DataError(f"{path} holds values that are not finite; export the image again")
    few = counting.ravel()[:: counting.size // _ENOUGH + 1]
    least, most = np.percentile(few, (0.1, 99.9)).astype(np.float32)
    narrow = 0 < most - least < (high - low) / 2
    if narrow:
        note("few pixels far from the others", NOTE, f"{path}: they do not count for its contrast")
        low, high = least, most
    stretched -= low
    stretched *= 255 / (high - low) if high - low > _LEAST else 0
    return np.clip(stretched, 0, 255) if narrow or counted is not None else stretched


def read_mask(path: Path) -> np.ndarray:
    """Reads a mask, bool [H, W]: True above half of the full scale.

    The full scale is 1, 255 or 65535, whichever first holds the largest value, so masks of {0, 1}
    and of {0, 255}, with hard or soft edges, read alike. Raises DataError as `read_values` does.
    """
    values = read_values(path)
    _note_values(path, values)
    highest = values.max()
    full_scale = 1 if highest <= 1 else 255 if highest <= 255 else 65535
    return values > full_scale / 2


def _note_values(path: Path, values: np.ndarray) -> None:
    """For the audit: which values a mask has."""
    if values.dtype == np.uint8:
        counts = np.bincount(values.ravel(), minlength=256)
        present = np.flatnonzero(counts)
        counts = counts[present]
    else:
        present, counts = np.unique(values, return_counts=True)
    if len(present) <= 2:
        note("mask values", NOTE, " and ".join(f"{value:g}" for value in present))
    else:
        between = 1 - counts[[0, -1]].sum() / counts.sum()
        note("soft mask", NOTE, f"{path}: {between:.1%} of its pixels lie between two values")


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes grey values [H, W] in 0..255 to uint8 [height, width], bilinear and antialiased."""
    bilinear = Image.Resampling.BILINEAR
    resized = Image.fromarray(image.astype(np.float32)).resize((width, height), bilinear)
    return np.clip(np.rint(np.asarray(resized)), 0, 255).astype(np.uint8)


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes a mask bool [H, W] to uint8 [height, width]: 1 where half of the area is in."""
    covered = Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    return (np.asarray(covered) >= 0.5).astype(np.uint8)
