"""Grey values of DICOM files. Nothing else of them, least of all who was imaged, gets out of here.

No message holds a value from a file: a damaged one may have a name where a number should be.
"""

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom import encaps, pixels, uid

from data_pipelines.errors import DataError
from data_pipelines.files import images

SUFFIXES = (".dcm", ".dicom")
_LARGEST_FILE = 2**29  # bytes; the largest image allowed, in colour, has fewer
# What is read at all; pydicom passes over the rest of the header.
_TAGS: list[Any] = (
    "Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation PlanarConfiguration "
    "BitsAllocated BitsStored HighBit PixelRepresentation PixelData RescaleSlope RescaleIntercept "
    "ModalityLUTSequence WindowCenter WindowWidth VOILUTFunction VOILUTSequence PixelSpacing "
    "ImagerPixelSpacing"
).split()
# PS3.5 A.4.4 wants what is in such a file alone; of a damaged one pydicom looks for that for ever.
_JP2 = b"\0\0\0\x0cjP  "
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def read(path: Path, channels: int = 1) -> tuple[np.ndarray, tuple[float, float]]:
    """Reads a DICOM file of one image.

    The rescale slope and intercept, or the modality table, are applied; then the first window
    (PS3.3 C.11.2.1.2), or else the first table of values of interest. Without either, 8 bits stay
    as they are and deeper values are stretched, as for other images. MONOCHROME1 is inverted, so
    that high is bright; colour of 8 bits becomes luminance, but for 3 channels.

    Gives float32 [H, W] in 0..255, or [H, W, 3] of colour for 3 channels; and the millimetres from
    one row and from one column to the next, of the patient where known, else of the detector, else
    (0, 0). Raises DataError where the file is damaged, compressed in a way that cannot be read, or
    holds anything but one image of up to 16 bits.
    """
    # What pydicom has to say of a header's values is kept from screens and logs.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    images.set_filters()
    size = path.stat().st_size
    if size > _LARGEST_FILE:
        raise DataError(
            f"{path} has {size} bytes, too many for one image; export each image as its own file"
        )
    try:
        header = _read_header(path)
        if header.SamplesPerPixel == 1:
            return _grey(path, header), _spacing(header)
        colours = Image.fromarray(pixels.pixel_array(header))
        image = colours.convert("L") if channels == 1 else colours
        return np.asarray(image, np.float32), _spacing(header)
    except DataError:
        raise
    except Exception:  # pydicom raises many kinds for a damaged file, with its values in them
        raise DataError(
            f"{path} cannot be read as DICOM (it is damaged, cut short, of another kind or "
            "compressed in a form not known here); copy the file again or export it uncompressed"
        ) from None


def _read_header(path: Path) -> pydicom.Dataset:
    """The elements of _TAGS, after all that must hold before pixels are decoded."""
    refuse = lambda what, remedy: DataError(f"{path} {what}; {remedy}")
    syntax = pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID
    compressed = ("is compressed in a way that cannot be read", "export it uncompressed")
    if syntax == uid.DeflatedExplicitVRLittleEndian:  # its header alone may grow a thousandfold
        raise refuse(*compressed)
    # From memory, so that no claim of a length can ask for more than is there.
    header = pydicom.dcmread(io.BytesIO(path.read_bytes()), specific_tags=_TAGS)
    if "PixelData" not in header:
        raise refuse("holds no pixels, or is cut short before them", "copy or export it again")
    if int(header.get("NumberOfFrames") or 1) != 1:
        raise refuse("holds several frames", "export the one to use as a file of its own")
    if header.Rows < 1 or header.Columns < 1:
        raise refuse("has no rows or no columns", "export the image again")
    if header.Rows * header.Columns > images.LARGEST:
        raise refuse(f"claims to have more than {images.LARGEST} pixels", "export it smaller")
    grey = header.PhotometricInterpretation in _GREY and header.SamplesPerPixel == 1
    colour = header.PhotometricInterpretation in _COLOUR and header.SamplesPerPixel == 3
    bits = (8, 16) if grey else (8,)
    if not (grey or colour) or header.BitsAllocated not in bits:
        what = "is neither grey of 8 to 16 bits nor RGB or YBR of 8"
        raise refuse(what, "export it as one of these")
    try:
        available = pixels.get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise refuse(*compressed)
    if uid.UID(syntax).is_encapsulated and syntax != uid.RLELossless:
        frame = next(encaps.generate_frames(header.PixelData, number_of_frames=1))
        if frame.startswith(_JP2):
            raise refuse("holds a JP2 file for a picture", "export it uncompressed")
        with images.opened(frame, ("JPEG", "JPEG2000")) as image:
            if image.size != (header.Columns, header.Rows):
                raise refuse("holds an image of another size than it says", "export it again")
    return header


def _grey(path: Path, header: pydicom.Dataset) -> np.ndarray:
    stored = pixels.pixel_array(header)
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        values = pixels.apply_modality_lut(stored, header).astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"{path} holds values that are not finite; export the image again")
    centre, width = (_first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    form = header.get("VOILUTFunction") or "LINEAR"
    if np.isfinite([centre, width]).all() and width >= (1 if form == "LINEAR" else 1e-6):
        image = _windowed(values, centre, width, form)
    elif header.get("VOILUTSequence"):
        highest = 2 ** header.VOILUTSequence[0].LUTDescriptor[2] - 1
        image = pixels.apply_voi(values.astype(np.int64), header).astype(np.float32)
        image = np.clip(image * np.float32(255 / highest), 0, 255)
    elif stored.dtype == np.uint8 and np.array_equal(stored, values):
        image = values
    else:
        image = images.stretch(values, path)
    return 255 - image if header.PhotometricInterpretation == "MONOCHROME1" else image


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


def _first(value: Any) -> float:
    """The first number of an element; NaN where it is absent or empty."""
    values = [value] if isinstance(value, str | float | int) else list(value or ())
    return float(values[0]) if values and values[0] not in ("", None) else np.nan


def _spacing(header: pydicom.Dataset) -> tuple[float, float]:
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        values = [float(value) for value in header.get(name) or ()]
        if len(values) == 2 and np.isfinite(values).all() and min(values) > 0:
            return values[0], values[1]
    return 0.0, 0.0
