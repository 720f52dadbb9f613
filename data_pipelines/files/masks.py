"""Mask files to arrays: what their numbers, colours or palettes say of each pixel."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.files import images
from data_pipelines.files.paths import require_file
from data_pipelines.findings import NOTE, note

Colour = tuple[int, int, int]
COLOUR = 1 << 24  # above any grey value
_SHOWN = 8  # values in a message
_TINT = 24  # how far lossy compression sets the channels of grey apart


class MaskFile(NamedTuple):
    """What a mask file holds.

    Attributes:
      values: [H, W], turned by EXIF: grey as it is stored, the index in a palette that has colours,
        or COLOUR + 0xRRGGBB of other colours.
      colours: of the indices that occur; {} without such a palette.
      lossy: whether its compression may have changed its values.
    """

    values: np.ndarray
    colours: dict[int, Colour]
    lossy: bool


def decode(path: Path) -> MaskFile:
    """Reads a mask file. Where all that is drawn is in its alpha channel, that is the mask.

    Raises DataError as `images.open_file` does, and where colour and alpha mark different pixels.
    """
    require_file(path)
    with images.open_file(path) as (image, content):
        turned = images.orientation(path, image)
        lossy = image.format == "JPEG" or (image.format == "WEBP" and b"VP8L" not in content[:64])
        palette: dict[int, Colour] = {}
        if images.is_deep(image):
            values = images.deep_grey(image)
        elif (bands := images.deep_colours(image, content)) is not None:
            return MaskFile(images.turn(_of_bands(bands, path), turned), {}, lossy)
        elif palette := _colours(image):
            values = np.asarray(image.getchannel(0))
        else:
            if image.mode in ("P", "PA"):
                image = image.convert("RGBA")
            elif image.mode not in ("L", "LA", "RGB", "RGBA"):
                image = image.convert("L" if image.mode == "1" else "RGB")
            bands = np.atleast_3d(np.asarray(image))
            if lossy and np.ptp(bands[..., :3].astype(np.int16), axis=-1).max() <= _TINT:
                bands = np.asarray(image.convert("L"))[..., None]  # grey, but for the compression
            values = _of_bands(bands, path)
        # Pillow turns TIFF.
        return MaskFile(
            images.turn(values, 1 if image.format == "TIFF" else turned), palette, lossy
        )


def _colours(image: Image.Image) -> dict[int, Colour]:
    """The colours of the indices that occur, where the palette says more than a grey value."""
    if image.mode not in ("P", "PA"):
        return {}
    numbers = image.getpalette("RGB") or []
    table: list[Colour] = list(zip(*(numbers[band::3] for band in range(3))))
    indices = np.flatnonzero(np.bincount(np.asarray(image.getchannel(0)).ravel())).tolist()
    used = {index: table[index] for index in indices if index < len(table)}
    black_and_white = 0 not in used and set(used.values()) <= {(0, 0, 0), (255, 255, 255)}
    is_grey = black_and_white or all(red == green == blue for red, green, blue in table)
    return {} if is_grey else used


def _of_bands(bands: np.ndarray, path: Path) -> np.ndarray:
    """Grey or colours [H, W, 1 or 3], or these with alpha [H, W, 2 or 4], to values [H, W]."""
    count = bands.shape[-1]
    colours, alpha = bands[..., : count - 1 + count % 2], bands[..., -1]
    values = colours[..., 0]
    if (colours != colours[..., :1]).any():
        if colours.dtype != np.uint8:
            raise DataError(
                f"{path} is a mask in colours of 16 bits; export it in 8 bits or in grey"
            )
        grey = (colours == colours[..., :1]).all(axis=-1)
        codes = COLOUR + colours.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
        values = np.where(grey, values, codes)
    if count % 2 or (alpha == alpha[0, 0]).all():
        return values
    if (values == values[0, 0]).all():
        return alpha
    half = np.iinfo(bands.dtype).max / 2
    opaque = alpha > half
    if not np.array_equal(colours.max(axis=-1) > half, opaque):
        raise DataError(
            f"{path} marks some pixels by its colours and others by its alpha channel; export the "
            "mask without an alpha channel"
        )
    return np.where(opaque, values, 0)


def full_scale(highest: float) -> int:
    """1, 255 or 65535, whichever first holds the largest value."""
    return 1 if highest <= 1 else 255 if highest <= 255 else 65535


def read_soft(path: Path) -> np.ndarray:
    """Reads a mask of one class, bool [H, W]: True above half of the full scale.

    So masks of {0, 1} and of {0, 255}, with hard or soft edges, read alike; one of zeros marks
    nothing. Raises DataError as `decode` does, and where no value that is not 0 passes.
    """
    values = decode(path).values
    _note_values(path, values)
    inside = values > full_scale(values.max()) / 2
    if not inside.any() and values.any():
        raise DataError(
            f"{path} marks no pixel: it holds {listed(np.unique(values))}, and none above half of "
            f"the full scale {full_scale(values.max())}; export the mask with 255 inside, or say "
            "what its values mean (--config.folder.mask_values, docs/own_data.md)"
        )
    return inside


def _note_values(path: Path, values: np.ndarray) -> None:
    """For the audit: which values a mask has."""
    if values.dtype == np.uint8:
        counts = np.array(Image.fromarray(values).histogram())  # faster than NumPy's
        present = np.flatnonzero(counts)
        counts = counts[present]
    else:
        present, counts = np.unique(values, return_counts=True)
    if len(present) <= 2:
        note("mask values", NOTE, " and ".join(map(named, present.tolist())))
    else:
        between = 1 - counts[[0, -1]].sum() / counts.sum()
        note("soft mask", NOTE, f"{path}: {between:.1%} of its pixels lie between two values")


def listed(values: np.ndarray) -> str:
    """Some values of a mask, for messages."""
    few = [named(value) for value in values[:_SHOWN].tolist()]
    return ("the values " if len(values) > 1 else "the value ") + ", ".join(
        few if len(values) <= _SHOWN else [*few[:-1], "...", named(values[-1].item())]
    )


def named(value: float) -> str:
    """A value as text, such as 255, 0.5 or #ff0000."""
    return f"#{int(value) - COLOUR:06x}" if value >= COLOUR else f"{value:g}"
