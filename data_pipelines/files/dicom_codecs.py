"""Decoders of imagecodecs as a plugin of pydicom, for pixels that Pillow cannot decode."""

import importlib.util
from typing import Any

from pydicom import pixels, uid

_JPEG = (uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
_JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
_JPEG_2000 = (
    *(uid.JPEG2000Lossless, uid.JPEG2000),
    *(uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K),
)
NAME = "imagecodecs"
DECODER_DEPENDENCIES = {syntax: (NAME,) for syntax in (*_JPEG, *_JPEG_LS, *_JPEG_2000)}


def is_available(syntax: str) -> bool:
    return syntax in DECODER_DEPENDENCIES and importlib.util.find_spec(NAME) is not None


def decode(frame: bytes, runner: Any) -> bytes:
    """The samples of one picture, by what pydicom's `DecodeRunner` knows of it."""
    import imagecodecs  # here, since few files need it

    if runner.transfer_syntax in _JPEG:
        grey = runner.samples_per_pixel == 1
        form = None if grey else "YCBCR" if "YBR" in runner.photometric_interpretation else "RGB"
        samples = imagecodecs.jpeg8_decode(frame, colorspace=form, outcolorspace=form)
    elif runner.transfer_syntax in _JPEG_LS:
        samples = imagecodecs.jpegls_decode(frame)
    else:
        samples = imagecodecs.jpeg2k_decode(frame)
    runner.set_option("planar_configuration", 0)
    return samples.astype(f"{samples.dtype.kind}{runner.bits_allocated // 8}").tobytes()


def register() -> None:
    """Lets pydicom know; once."""
    for syntax in DECODER_DEPENDENCIES:
        pixels.get_decoder(syntax).add_plugin(NAME, (__name__, "decode"))
