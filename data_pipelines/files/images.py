"""Image files to arrays: decoding, grey values, resizing."""

import contextlib
import io
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from data_pipelines.errors import MOST_PACKED, DataError, refuse_claim, refuse_damaged
from data_pipelines.findings import NOTE, WARNING, note

# The others that Pillow knows may run programs (EPS) or are never radiographs.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000")
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff"),
    *(".webp", ".jp2", ".j2k", ".jpx", ".jpf"),
)
LARGEST = 2**26  # pixels; the largest films of the official sets have 20 million
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601
# Values closer together than this, or further apart, are past what float32 can stretch.
_LEAST, _MOST = 1e-30, float(np.finfo(np.float32).max)
_HARMLESS = 2**24  # pixels; some ways to pack so many need next to nothing
_ENOUGH = 2**18  # values that tell how the others lie
_UNBOUNDED = ("WEBP", "JPEG2000")  # of one colour they need next to nothing at any size
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


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[tuple[Image.Image, bytes]]:
    """The first frame of a file, no more than its header decoded yet, and the file's bytes.

    Raises DataError where the file is empty, truncated, not an image or far too large, and for
    whatever fails inside.
    """
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path} is empty (0 bytes); copy or download the file again")
    if size > _LARGEST_FILE:
        raise DataError(f"{path} has {size} bytes, too many for an image; export it smaller")
    content = path.read_bytes()
    refusing = refuse_damaged(path, "read as an image", "copy or download the file again")
    with refusing, opened(content) as image:
        _note_form(path, image)
        width, height = image.size
        bounded = width * height > _HARMLESS and image.format not in _UNBOUNDED
        needed = width * height / 8 / MOST_PACKED if bounded else 0
        refuse_claim(path, (height, width), "pixels", most=LARGEST, needed=needed)
        yield image, content


def orientation(path: Path, image: Image.Image) -> int:
    """How the stored pixels are turned against what is shown, by EXIF: 1 (not at all) to 8."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises many kinds of a damaged note; the pixels may be sound
        return 1
    if found not in range(2, 9):
        return 1
    note("turned by EXIF", NOTE, f"{path} is turned as its EXIF orientation {found} says")
    return found


def turn(values: np.ndarray, by: int) -> np.ndarray:
    """Stored pixels [H, W, ...] -> as they are to be shown, for an orientation by EXIF 2.3."""
    if by >= 5:
        values = values.swapaxes(0, 1)
    down, right = by in (3, 4, 7, 8), by in (2, 3, 6, 7)
    return values[:: -1 if down else 1, :: -1 if right else 1]


def read_values(path: Path, channels: int = 1) -> np.ndarray:
    """The pixels of the first frame, turned by EXIF: uint8 grey [H, W] or, of 3 channels, red,
    green and blue [H, W, 3]; or the file's own numbers where it is deeper.

    Deeper colour is [H, W, 3] for 3 channels, else luminance; deeper grey is [H, W]. Raises
    DataError as `open_file` does.
    """
    with open_file(path) as (image, content):
        turned = orientation(path, image)
        if (colours := deep_colours(image, content)) is not None:
            return turn(_visible(colours, channels), turned)
        values = deep_grey(image) if is_deep(image) else _shallow(image, channels)
        return values if image.format == "TIFF" else turn(values, turned)  # Pillow turns TIFF


def is_deep(image: Image.Image) -> bool:
    """Whether it holds grey of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def deep_grey(image: Image.Image) -> np.ndarray:
    """The numbers [H, W] of such an image, high where it is bright."""
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    white_is_zero = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
    values = np.asarray(image)
    if not white_is_zero:
        return values
    return (2**bits - 1 if values.dtype == np.uint16 else values.max()) - values


def deep_colours(image: Image.Image, content: bytes) -> np.ndarray | None:
    """The stored numbers [H, W, bands] of colour, or of grey with alpha, of more than 8 bits, which
    Pillow would cut down to 8; None of other images.
    """
    if image.mode not in ("LA", "RGB", "RGBA"):
        return None
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        deep = max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) > 8
    elif image.format == "PNG":
        deep = content[24] > 8  # IHDR
    else:  # depth stands 42 bytes behind the first marker of a code stream
        place = content.find(b"\xff\x4f\xff\x51") + 42
        deep = image.format == "JPEG2000" and content[place] & 127 > 7
    if not deep:
        return None
    import imagecodecs  # here, since few images need it

    if isinstance(image, TiffImagePlugin.TiffImageFile):
        values = imagecodecs.tiff_decode(content, index=0)
        planar = image.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
        return np.moveaxis(values, 0, -1) if planar else values
    decode = imagecodecs.png_decode if image.format == "PNG" else imagecodecs.jpeg2k_decode
    return decode(content)


def _visible(colours: np.ndarray, channels: int) -> np.ndarray:
    """Colour of `deep_colours`, [H, W, 3], or of 1 channel luminance [H, W]."""
    bands = colours.shape[-1]
    values, alpha = colours[..., : bands - 1 + bands % 2], colours[..., -1]
    if bands % 2 == 0 and not (values != values[0, 0]).any():  # all that is drawn is in alpha
        values = alpha[..., None]
    if channels == 3:
        return np.broadcast_to(values, (*values.shape[:2], 3))
    return values[..., 0] if values.shape[-1] == 1 else values @ _LUMINANCE


def _shallow(image: Image.Image, channels: int) -> np.ndarray:
    if image.mode in ("P", "PA"):  # to convert it directly warns where the palette has alpha
        image = image.convert("RGBA")
    mode = "L" if channels == 1 else "RGB"
    if image.mode in ("LA", "RGBA"):
        *colour, alpha = (low == high for low, high in map(_extrema, image.split()))
        if all(colour) and not alpha:  # all that is drawn is in alpha
            image = image.getchannel("A")
    return np.asarray(image.convert(mode))


def _extrema(band: Image.Image) -> tuple[float, float]:
    low, high = band.getextrema()
    assert not isinstance(low, tuple) and not isinstance(high, tuple)
    return low, high


def _note_form(path: Path, image: Image.Image) -> None:
    """For the audit: how the pixels of an image are stored, where that is not the usual way."""
    mode, due = image.mode, Image.registered_extensions().get(path.suffix.lower())
    if image.format != due:
        note(WRONG_TYPE, WARNING, f"{path} is a {image.format} file")
    if mode in _MODES:
        note(_MODES[mode], NOTE, f"{path} has mode {mode}")
    if "transparency" in image.info or mode in ("LA", "PA", "RGBA"):
        detail = "which is not read unless nothing else varies"
        note("transparency", NOTE, f"{path} has an alpha channel, {detail}")
    if mode.startswith(("I", "F")):
        note("more than 8 bits", NOTE, f"{path} has mode {mode}: stretched to 0..255")


def read(path: Path, channels: int = 1) -> np.ndarray:
    """Reads an image as grey values [H, W] or, of 3 channels, as colours [H, W, 3]; float32 0..255.

    As grey, colour becomes luminance (ITU-R 601); transparency is ignored, unless nothing but it
    varies. Values of 8 bits stay as they are; deeper ones (12 or 16 bits, float) are stretched so
    that the image's own minimum becomes 0 and its maximum 255, because such files use an unknown
    part of their range. Raises DataError as `read_values` does, and for numbers not finite.
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


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes grey values [H, W] in 0..255 to uint8 [height, width], bilinear and antialiased."""
    bilinear = Image.Resampling.BILINEAR
    resized = Image.fromarray(image.astype(np.float32)).resize((width, height), bilinear)
    return np.clip(np.rint(np.asarray(resized)), 0, 255).astype(np.uint8)


def coverage(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """What share of each pixel a mask bool [H, W] covers: float32 [height, width]."""
    resized = Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    return np.asarray(resized)


def resize_mask(
    mask: np.ndarray, height: int, width: int, *, known: np.ndarray | None = None
) -> np.ndarray:
    """Resizes a mask bool [H, W] to uint8 [height, width]: 1 where at least half of the area is in,
    of what is `known` [height, width] of it where that is more than half.

    Where that is nowhere so, what is marked is too thin for that size. It does not vanish: pixels
    are 1 that are covered at least half as much as the one that is covered most.
    """
    covered = coverage(mask, height, width)
    if known is not None:
        covered = np.where(known > 0.5, covered / np.maximum(known, 0.5), 0)
    highest = float(covered.max())
    if 0 < highest < 0.5:
        detail = (
            f"at {height}x{width} it fills {highest:.0%} of a pixel at most; it is made thicker"
        )
        note("mask too thin for the size", WARNING, detail)
    cut = 0.5 if highest >= 0.5 else max(highest / 2, 1e-6)
    return (covered >= cut).astype(np.uint8)
