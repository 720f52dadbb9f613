"""Grey values of DICOM pixels, as they are to be seen."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from pydicom import pixels

from data_pipelines.errors import DataError
from data_pipelines.files import images
from data_pipelines.findings import NOTE, WARNING, note

_FLAT = 0.99  # of an image that is black, or white: it shows nothing


class Table(NamedTuple):
    """A look-up table (PS3.3 C.11.1.1, C.11.2.1.1): what it gives for `first` and those after it,
    as numbers of some `bits`.
    """

    first: int
    entries: np.ndarray
    bits: int

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """float32 of the shape of `values`; those beyond an end are taken for the last there."""
        last = len(self.entries) - 1
        # The file may have written the first value as signed or as unsigned.
        low, high = values.min(), values.max()
        firsts = [self.first + turn for turn in (0, -(2**16), 2**16)]
        first = next((f for f in firsts if f <= high and f + last >= low), self.first)
        index = np.clip(values.astype(np.int64) - first, 0, last)
        return self.entries[index].astype(np.float32)


def grey(header: pydicom.Dataset, path: Path) -> np.ndarray:
    """Grey values float32 [H, W] in 0..255, high is bright, of one image of a complete header.

    The rescale slope and intercept, or the modality table, are applied; then the first window
    (PS3.3 C.11.2.1.2), or else the first table of values of interest, unless what it shows is as
    good as black or white all over. Without either, 8 bits stay as they are and deeper values are
    stretched, as for other images. Padding (PS3.3 C.7.5.1.1.2) is black, and counts nowhere else.
    Raises DataError for values that are not finite.
    """
    stored, padding = _stored(header, path)
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        values = _rescaled(stored, header).astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"{path} holds values that are not finite; export the image again")
    shown = None if padding is None else ~padding
    for name, image in _views(values, header):
        if _shows(image, values, shown):
            break
        note(f"{name} that shows nothing", WARNING, f"{path}: its {name} is not applied")
    else:
        whole = stored.dtype == np.uint8 and np.array_equal(stored, values)
        image = values if whole else images.stretch(values, path, shown)
    if header.PhotometricInterpretation == "MONOCHROME1":
        image = 255 - image
    return image if padding is None else np.where(padding, np.float32(0), image)


def _stored(header: pydicom.Dataset, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The numbers [H, W] that are stored, and which of them are padding, None if none are."""
    signs = header.get("PixelRepresentation")
    if signs is None:
        header.PixelRepresentation = 0
    # Padding may lie outside of the bits that count.
    raw = pixels.pixel_array(header, correct_unused_bits=False)
    stored = _counting_bits(raw, header)
    if signs is None:
        signed = raw.view(raw.dtype.str.replace("u", "i"))
        other = _counting_bits(signed, header)
        # Read the wrong way, the sign alone makes a number large.
        if np.ptp(other.astype(np.int32)) < np.ptp(stored.astype(np.int32)) / 2:
            raw, stored = signed, other
    if header.HighBit + 1 == header.BitsStored and (raw != stored).any():
        note("unused bits", NOTE, f"{path}: bits that do not count are set, and not read")
    padding = _padding(raw, stored, header)
    if padding is not None:
        note("padding", NOTE, f"{path}: {padding.mean():.1%} of its pixels are padding, and black")
    return stored, padding


def _counting_bits(raw: np.ndarray, header: pydicom.Dataset) -> np.ndarray:
    """What the bits say that count; others may hold anything, such as an overlay (PS3.5 8.1.1)."""
    counting = header.BitsStored
    below = header.HighBit + 1 - counting
    if below and (raw & (2**below - 1)).any():  # the values are not where it says
        counting, below = counting + below, 0
    above = max(8 * raw.itemsize - counting - below, 0)
    return raw << above >> above + below if above or below else raw


def _padding(raw: np.ndarray, stored: np.ndarray, header: pydicom.Dataset) -> np.ndarray | None:
    ends = [header.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    ends = [end for end in ends if isinstance(end, int)]
    if not ends or header.get("PixelPaddingValue") is None:
        return None
    # The file may have written either end as signed or as unsigned.
    lowest = -(2 ** (header.BitsAllocated - 1)) if raw.dtype.kind == "i" else 0
    ends = [(end - lowest) % 2**header.BitsAllocated + lowest for end in ends]
    low, high = min(ends), max(ends)
    padding = (raw >= low) & (raw <= high) | (stored >= low) & (stored <= high)
    return padding if padding.any() and not padding.all() else None


def _rescaled(stored: np.ndarray, header: pydicom.Dataset) -> np.ndarray:
    """PS3.3 C.11.1: by the modality table, or by slope and intercept."""
    table = _table(header, "ModalityLUTSequence")
    if table is not None:
        return table(stored)
    slope, intercept = (first(header.get(name)) for name in ("RescaleSlope", "RescaleIntercept"))
    return stored * np.float64(1 if np.isnan(slope) else slope or 1) + np.nan_to_num(intercept)


def _views(values: np.ndarray, header: pydicom.Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """What the header would have seen of the values, by name: float32 [H, W] in 0..255."""
    centre, width = (first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    form = header.get("VOILUTFunction")
    form = form if form in ("LINEAR_EXACT", "SIGMOID") else "LINEAR"
    if np.isfinite([centre, width]).all() and width >= (1 if form == "LINEAR" else 1e-6):
        yield "window", _windowed(values, centre, width, form)
    table = _table(header, "VOILUTSequence")
    if table is not None:
        bits, highest = table.bits, int(table.entries.max())
        if not 2**bits / 8 <= highest < 2**bits:  # it is not of the bits that it says
            bits = max(highest.bit_length(), 1)
        scale = np.float32(255 / (2**bits - 1))
        yield "table of values of interest", np.clip(table(values) * scale, 0, 255)


def _shows(image: np.ndarray, values: np.ndarray, shown: np.ndarray | None) -> bool:
    """Whether anything of the values is to be seen in an image."""
    if shown is not None:
        image, values = image[shown], values[shown]
    flat = max(np.count_nonzero(image < 0.5), np.count_nonzero(image > 254.5)) > _FLAT * image.size
    return np.ptp(values) == 0 or (np.ptp(image) >= 1 and not flat)


def _windowed(values: np.ndarray, centre: float, width: float, form: str) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1 and C.11.2.1.3: what lies in the window becomes 0..255."""
    if form == "SIGMOID":
        exponent = np.clip(-4 * (values - centre) / width, -80, 80)
        return (255 / (1 + np.exp(exponent))).astype(np.float32)
    if form == "LINEAR":
        if width == 1:  # a step
            return np.where(values > centre - 0.5, np.float32(255), np.float32(0))
        centre, width = centre - 0.5, width - 1
    return np.clip(((values - centre) / width + 0.5) * 255, 0, 255).astype(np.float32)


def _table(header: pydicom.Dataset, name: str) -> Table | None:
    """The first table of a sequence; None where there is none, or nothing in it."""
    item = next(iter(header.get(name) or ()), None)
    data, descriptor = (item and item.get(key) for key in ("LUTData", "LUTDescriptor"))
    if not data or not descriptor or len(descriptor) != 3:
        return None
    length, first, bits = map(int, descriptor)
    word = "<u2" if header.original_encoding[1] else ">u2"
    if isinstance(data, bytes):
        entries = np.frombuffer(data[: len(data) // 2 * 2], word)
    else:
        entries = np.atleast_1d(np.asarray(data)).astype(np.uint16)
    length = length % 2**16 or 2**16
    if bits <= 8 and 2 * len(entries) in (length, length + 1):  # two in each word
        entries = entries.astype("<u2").view(np.uint8)
    if len(entries) == length + 1:  # filled up
        entries = entries[:length]
    return Table(first, entries, bits) if len(entries) else None


def first(value: Any) -> float:
    """The first number of an element; NaN where it is absent or empty."""
    values = [value] if isinstance(value, str | float | int) else list(value or ())
    return float(values[0]) if values and values[0] not in ("", None) else np.nan
