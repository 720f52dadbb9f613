"""Pictures of DICOM files. Nothing else of them, least of all who was imaged, gets out of here.

No message holds a value from a file: a damaged one may have a name where a number should be.
"""

import hashlib
import io
import logging
import math
import re
import secrets
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from PIL import Image
from pydicom import encaps, filereader, pixels, uid
from pydicom.tag import Tag

from data_pipelines.errors import DataError
from data_pipelines.files import dicom_codecs, dicom_values, images

SUFFIXES = (".dcm", ".dicom")
_LARGEST_FILE = 2**29  # bytes; the largest image allowed, in colour, has fewer
# What is read at all; pydicom passes over the rest of the header.
_TAGS: list[Any] = (
    "Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation PlanarConfiguration "
    "BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit "
    "PixelData RescaleSlope RescaleIntercept ModalityLUTSequence WindowCenter WindowWidth "
    "VOILUTFunction VOILUTSequence PixelSpacing ImagerPixelSpacing"
).split()
_DECIMAL = ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth")
_NEEDED = ("Rows", "Columns", "PhotometricInterpretation", "SamplesPerPixel", "BitsAllocated")
# What a file without a preamble begins with: an element of group 2 or 8, with its type or without.
_BARE = re.compile(
    rb"[\x02\x08]\0.\0(AE|CS|DA|LO|OB|SH|ST|TM|UI|UL|UR)|\x08\0[\0\x01\x05-\x08\x12-\x18]\0.\0\0\0",
    re.DOTALL,
)
_BEGINNING = 2**16  # bytes, which hold these and the patient's
_TELLING = "SOPClassUID SOPInstanceUID ImageType StudyDate Modality".split()
_JPEG_2000 = b"\xff\x4f\xff\x51"  # how such a picture begins
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_NOBODY = re.compile(r"[0x\W_]*|anon(ym\w*)?|none|null|unknown|n/?a|patient|test", re.IGNORECASE)
_KEY = secrets.token_bytes(32)
dicom_codecs.register()
_Refuse = Callable[[str, str], DataError]  # of what a file is or does, and of the remedy


def kind_of(path: Path) -> Literal["", "image", "other"]:
    """What a file is by its content, whatever its name: a DICOM 'image', DICOM of an 'other' kind
    (a report, a directory, a presentation state, a plan) or, '', no DICOM. Raises OSError.
    """
    with path.open("rb") as file:
        content = file.read(_BEGINNING)
    marked = content[128:132] == b"DICM"
    if not marked and not _BARE.match(content):
        return ""
    try:
        header = _beginning(content, 0x00080060, _TELLING)
        meta = header.file_meta.get("MediaStorageSOPClassUID")
        sop_class = uid.UID(header.get("SOPClassUID") or meta or "")
        telling = any(header.get(name) for name in _TELLING)
    except Exception:  # pydicom raises many kinds for a damaged file
        return "image" if marked else ""
    if not marked and not telling:
        return ""
    known = sop_class.type == "SOP Class"
    return "other" if known and "Image Storage" not in sop_class.name else "image"


def patient_key(path: Path) -> bytes | None:
    """The same for all files of a patient, in this process alone: a digest of the PatientID, by a
    key that is kept nowhere. None where there is no ID, or one that stands for nobody.
    """
    try:
        if not kind_of(path):
            return None
        with path.open("rb") as file:
            header = _beginning(file.read(_BEGINNING), 0x00100020, ["PatientID"])
        patient = str(header.get("PatientID") or "").strip()
    except Exception:  # reading the image will say what is wrong
        return None
    known = not _NOBODY.fullmatch(patient)
    return hashlib.blake2b(patient.encode(errors="replace"), key=_KEY).digest() if known else None


def _beginning(content: bytes, last: int, names: list[str]) -> pydicom.Dataset:
    """Some elements of a header, up to a last one."""
    _set_quiet()
    stop = lambda tag, *_: tag > last
    tags: list[Any] = [Tag(name) for name in names]
    return filereader.read_partial(io.BytesIO(content), stop, force=True, specific_tags=tags)


def _set_quiet() -> None:
    """What pydicom has to say of a header's values is kept from screens and logs."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    images.set_filters()


def read(path: Path, channels: int = 1) -> tuple[np.ndarray, tuple[float, float]]:
    """Reads a DICOM file of one image.

    Grey becomes 0..255 as `dicom_values.grey` has it; colour of 8 bits becomes luminance, but for
    3 channels. What a header leaves out is taken for granted where there is but one way to read it.

    Gives float32 [H, W] in 0..255, or [H, W, 3] of colour for 3 channels; and the millimetres from
    one row and from one column to the next, of the patient where known, else of the detector, else
    (0, 0). Raises DataError where the file is damaged, compressed in a way that cannot be read, or
    holds anything but one image of up to 16 bits.
    """
    _set_quiet()
    size = path.stat().st_size
    if size > _LARGEST_FILE:
        raise DataError(
            f"{path} has {size} bytes, too many for one image; export each image as its own file"
        )
    try:
        header = _read_header(path)
        if header.SamplesPerPixel == 1:
            return dicom_values.grey(header, path), _spacing(header)
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
    """The elements of _TAGS, completed, after all that must hold before pixels are decoded."""
    refuse: _Refuse = lambda what, remedy: DataError(f"{path} {what}; {remedy}")
    kind = kind_of(path)
    if kind == "other":
        what = "is DICOM without an image of its own (a report, a directory, a plan or the like)"
        raise refuse(what, "leave it out")
    content = path.read_bytes()
    if uid.DeflatedExplicitVRLittleEndian.encode() in content:  # may grow a thousandfold
        raise refuse("is compressed as a whole (deflated)", "export it uncompressed")
    # From memory, so that no claim of a length can ask for more than is there.
    header = pydicom.dcmread(io.BytesIO(content), force=True, specific_tags=_TAGS)
    if "PixelData" not in header and kind:
        raise refuse("holds no pixels, or is cut short before them", "copy or export it again")
    _complete(header, refuse)
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
    _check_pixels(header, refuse)
    return header


def _complete(header: pydicom.Dataset, refuse: _Refuse) -> None:
    """Gives a header what it leaves out, where that is beyond doubt."""
    for name in _TAGS:
        try:
            value = header.get(name)
            if name in _DECIMAL:
                dicom_values.first(value)
        except Exception:  # of many kinds, with the value in them
            raise refuse(f"has a {name} that cannot be read", "export the image again") from None
    packed = header["PixelData"].is_undefined_length
    if not header.file_meta.get("TransferSyntaxUID"):
        if packed:
            raise refuse("does not say its TransferSyntaxUID", "export it again")
        implicit, little = header.original_encoding
        explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        header.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    form = header.get("PhotometricInterpretation")
    if header.get("SamplesPerPixel") is None and form in (*_GREY, *_COLOUR):
        header.SamplesPerPixel = 1 if form in _GREY else 3
    sides = [header.get(name) for name in ("Rows", "Columns", "SamplesPerPixel")]
    if not header.get("BitsAllocated") and all(sides) and not packed:
        header.BitsAllocated = len(header.PixelData) // math.prod(sides) * 8
    missing = [name for name in _NEEDED if header.get(name) in (None, "")]
    if missing:
        raise refuse(f"does not say its {', '.join(missing)}", "export the image again")
    allocated = header.BitsAllocated
    if not 1 <= (header.get("BitsStored") or 0) <= allocated:
        header.BitsStored = allocated
    if not header.BitsStored <= (header.get("HighBit") or 0) < allocated:
        header.HighBit = header.BitsStored - 1
    if header.SamplesPerPixel > 1:
        header.PlanarConfiguration = header.get("PlanarConfiguration") or 0
        header.PixelRepresentation = header.get("PixelRepresentation") or 0


def _check_pixels(header: pydicom.Dataset, refuse: _Refuse) -> None:
    """Whether there is a decoder for them, and what is packed is as large as the header says."""
    syntax = uid.UID(header.file_meta.TransferSyntaxUID)
    try:
        decoder = pixels.get_decoder(syntax)
    except NotImplementedError:
        what = "is compressed in a way that cannot be read"
        raise refuse(what, "export it uncompressed") from None
    able = set(decoder.available_plugins)
    if syntax == uid.JPEGExtended12Bit and header.BitsStored > 8:
        able -= {"gdcm", "pillow"}  # which take it for another, and fail
    if syntax.is_encapsulated and not able:
        raise refuse(
            f"is compressed as {syntax.name}, for which there is no decoder here",
            "pip install imagecodecs, or export it uncompressed",
        )
    claim = _claim(header, syntax)
    if claim and claim != (header.Rows, header.Columns, header.SamplesPerPixel):
        raise refuse("holds an image of another size than it says", "export it again")


def _claim(header: pydicom.Dataset, syntax: uid.UID) -> tuple[int, int, int] | None:
    """Rows, columns and samples by the packed picture itself, which decoders go by."""
    if not syntax.is_encapsulated or syntax == uid.RLELossless:
        return None
    frame = next(encaps.generate_frames(header.PixelData, number_of_frames=1))
    if frame[:2] != b"\xff\xd8":
        # Some hold a JP2 file, with the picture in it (PS3.5 A.4.4 wants that alone). Of a damaged
        # one pydicom looks for it for ever.
        begin = frame.index(_JPEG_2000)
        if begin:
            frame = frame[begin:]
            header.PixelData = encaps.encapsulate([frame])
        right, bottom, left, top = struct.unpack(">4I", frame[8:24])
        return bottom - top, right - left, int.from_bytes(frame[40:42])
    at = 2
    while frame[at] == 0xFF:
        marker = frame[at + 1]
        # Those of frames: SOF0 to SOF15 of JPEG, but for three others among them, and of JPEG-LS.
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return struct.unpack(">HHB", frame[at + 5 : at + 10])
        at += 1 if marker == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4])
    raise ValueError("no picture")


def _spacing(header: pydicom.Dataset) -> tuple[float, float]:
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        values = [float(value) for value in header.get(name) or ()]
        if len(values) == 2 and np.isfinite(values).all() and min(values) > 0:
            return values[0], values[1]
    return 0.0, 0.0
