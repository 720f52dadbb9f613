"""Tests of data_pipelines.files.images."""

import struct
import warnings
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageOps
from skimage import color

from data_pipelines.errors import DataError
from data_pipelines.files import images, masks

RGB = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[9, 99, 200], [7, 7, 7], [0, 0, 0]]])


def save(path, pixels, mode=""):
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def test_eight_bits_stay_as_they_are(tmp_path):
    pixels = np.array([[3, 7, 200], [0, 1, 90]], np.uint8)
    read = images.read(save(tmp_path / "a.png", pixels))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_becomes_luminance(tmp_path, mode):
    path = save(tmp_path / "a.png", RGB.astype(np.uint8), mode)
    with Image.open(path) as image:
        stored = np.asarray(image.convert("RGB"))
    expected = stored @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(images.read(path), expected, atol=1)


def test_transparency_is_ignored(tmp_path):
    gray_alpha = np.stack([np.arange(6), np.full(6, 40)], -1).reshape(2, 3, 2).astype(np.uint8)
    path = save(tmp_path / "a.png", gray_alpha)
    np.testing.assert_array_equal(images.read(path), gray_alpha[..., 0])


def test_palette_with_transparency(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    image.putpalette([10, 10, 10, 200, 200, 200])
    image.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    np.testing.assert_array_equal(images.read(tmp_path / "a.png"), [[10, 200], [200, 10]])


def test_one_bit(tmp_path):
    path = save(tmp_path / "a.png", np.array([[False, True]]))
    np.testing.assert_array_equal(images.read(path), [[0, 255]])


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_images_are_stretched_over_their_own_range(tmp_path, dtype):
    path = save(tmp_path / "a.tif", np.array([[1000, 1300], [4000, 2500]], dtype))
    np.testing.assert_allclose(images.read(path), [[0, 25.5], [255, 127.5]], rtol=1e-5)


def test_deep_image_of_one_value_is_black(tmp_path):
    path = save(tmp_path / "a.png", np.full((2, 2), 700, np.uint16))
    np.testing.assert_array_equal(images.read(path), np.zeros((2, 2)))


def test_values_that_are_not_finite(tmp_path):
    path = save(tmp_path / "a.tif", np.array([[0, np.nan]], np.float32))
    with pytest.raises(DataError, match=r"a\.tif holds values that are not finite; export"):
        images.read(path)


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_exif_turns_images_and_masks_of_all_formats_alike(tmp_path, suffix, turned):
    pixels = np.zeros((16, 24), np.uint8)
    pixels[:8, :8], pixels[8:, :8] = 255, 60
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turned
    image = Image.fromarray(pixels)
    image.save(tmp_path / f"a.{suffix}", exif=exif, quality=100)
    image.getexif()[ExifTags.Base.Orientation] = turned
    shown = np.asarray(ImageOps.exif_transpose(image))
    read = images.read(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(read, shown, atol=4)
    np.testing.assert_array_equal(masks.read_soft(tmp_path / f"a.{suffix}"), shown > 127)
    np.testing.assert_array_equal(images.turn(pixels, turned), shown)


def test_a_damaged_note_of_exif_turns_nothing(tmp_path):
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    image.save(tmp_path / "a.png", exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x05\x01\x12")
    np.testing.assert_array_equal(images.read(tmp_path / "a.png"), np.asarray(image))


DEEP = np.random.default_rng(3).integers(700, 860, (16, 20, 4)).astype(np.uint16)  # few levels


FORMS = ["png", "tif", "planar.tif", "jp2", "turned.tif"]


@pytest.mark.parametrize(
    ("form", "bands"), [("png", 2), *((form, bands) for form in FORMS for bands in (3, 4))]
)
def test_colours_of_16_bits_keep_their_levels(tmp_path, form, bands):
    path, values = tmp_path / f"a.{form}", np.ascontiguousarray(DEEP[..., :bands])
    if form == "png":
        path.write_bytes(imagecodecs.png_encode(values))
    elif form == "jp2":
        path.write_bytes(imagecodecs.jpeg2k_encode(values, level=0, bitspersample=12))
    else:
        planar = dict(planarconfig="separate") if form == "planar.tif" else {}
        more = dict(extratags=[(274, 3, 1, 6, True)]) if form == "turned.tif" else {}
        pixels = np.moveaxis(values, -1, 0) if planar else values
        extra = ["unassalpha"] if bands == 4 else None
        options = dict(photometric="rgb", extrasamples=extra, compression="zlib")
        tifffile.imwrite(path, np.ascontiguousarray(pixels), **options, **planar, **more)
    colour = values[..., :3].astype(float) if bands > 2 else values[..., :1].astype(float)
    grey = colour @ [0.299, 0.587, 0.114] if bands > 2 else colour[..., 0]
    if form == "turned.tif":
        colour, grey = np.rot90(colour, -1), np.rot90(grey, -1)
    stretched = lambda x: (x - x.min()) / (x.max() - x.min()) * 255
    np.testing.assert_allclose(images.read(path), stretched(grey), atol=1e-2)
    three = np.broadcast_to(stretched(colour), (*grey.shape, 3))
    np.testing.assert_allclose(images.read(path, 3), three, atol=1e-2)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiff_in_which_0_is_white(tmp_path, dtype):
    values = np.array([[0, 50], [200, 255]], dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    expected = [[255, 205], [55, 0]]
    np.testing.assert_allclose(images.read(tmp_path / "a.tif"), expected, atol=1e-3)
    full = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    tifffile.imwrite(tmp_path / "m.tif", (values < 99).astype(dtype) * full, photometric=0)
    np.testing.assert_array_equal(masks.read_soft(tmp_path / "m.tif"), values > 99)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("bands", [1, 3])
def test_what_is_drawn_in_alpha_alone_is_the_picture(tmp_path, bands, deep):
    alpha = np.array([[0, 255], [90, 0]], np.uint16 if deep else np.uint8)
    values = np.dstack([np.full((2, 2, bands), 7, alpha.dtype), alpha])
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(values))
    np.testing.assert_allclose(images.read(tmp_path / "a.png"), alpha, atol=1e-3)
    np.testing.assert_allclose(images.read(tmp_path / "a.png", 3)[..., 2], alpha, atol=1e-3)
    np.testing.assert_array_equal(masks.read_soft(tmp_path / "a.png"), alpha > 99)


@pytest.mark.parametrize("suffix", [".webp", ".jp2", ".j2k"])
def test_newer_formats(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3)).astype(np.uint8)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    np.testing.assert_array_equal(images.read(path, 3), pixels)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=rf"a\{suffix} cannot be read as an image"):
        images.read(path)


@pytest.mark.parametrize("read", [images.read, masks.read_soft])
@pytest.mark.parametrize("suffix", [".png", ".jpeg", ".gif", ".tif"])
def test_damaged_files_are_named(tmp_path, read, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    path = save(tmp_path / f"a{suffix}", noise)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"<html>not found</html>", whole[:20]):
        path.write_bytes(content)
        pattern = rf"a\{suffix} cannot be read as an image \((?!.*0x).*download"
        with pytest.raises(DataError, match=pattern):
            read(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=rf"a\{suffix} is empty \(0 bytes\); copy or download"):
        read(path)


def test_what_is_far_too_large_is_refused_by_its_header(tmp_path):
    claim = struct.pack(">II", 2**13, 2**13 + 1)
    content = bytearray(save(tmp_path / "a.png", np.zeros((2, 2), np.uint8)).read_bytes())
    content[16:24] = claim
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png claims to hold 8193x8192 pixels, more than 67"):
        images.read(tmp_path / "a.png")


def test_a_few_bytes_cannot_be_many_pixels(tmp_path):
    save(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = struct.pack(">II", 2**12, 2**12 + 1)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png claims to hold 4097x4096 .*more than its \d+ byt"):
        images.read(tmp_path / "a.png")


def test_a_file_too_large_for_an_image(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(DataError, match=r"a\.png has 1073741825 bytes, too many for an image"):
        images.read(tmp_path / "a.png")


@pytest.mark.parametrize("side", [10_000, 50_000])
def test_what_pillow_finds_far_too_large_is_refused(tmp_path, side):
    header = struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54)
    header += struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 0, 0, 0, 0, 0, 0)
    (tmp_path / "a.bmp").write_bytes(header)
    with pytest.raises(DataError, match=r"a\.bmp cannot be read as an image .*decompression bomb"):
        images.read(tmp_path / "a.bmp")


def test_other_formats_are_not_tried(tmp_path):
    """Some would have Pillow run a program."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF\n")
    with pytest.raises(DataError, match=r"a\.png cannot be read as an image"):
        images.read(tmp_path / "a.png")


def test_filters_of_warnings_are_not_set_twice(tmp_path):
    path = save(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    images.read(path)
    before = list(warnings.filters)
    images.read(path)
    assert warnings.filters == before
    warnings.simplefilter("error")  # as a test runner does
    images.read(path)
    assert warnings.filters[:3] == before[:3]


def test_numbers_too_far_apart(tmp_path):
    path = save(tmp_path / "a.tif", np.array([[-3e38, 3e38]], np.float32))
    with pytest.raises(DataError, match=r"a\.tif holds values that are not finite; export"):
        images.read(path)


def triangle_resize(values, size):
    """Antialiased linear interpolation of the columns of `values`, written out."""
    scale = len(values) / size
    centres = (np.arange(size) + 0.5) * scale
    distance = np.abs(np.arange(len(values)) + 0.5 - centres[:, None])
    weights = np.maximum(0, 1 - distance / max(scale, 1))
    return weights / weights.sum(1, keepdims=True) @ values


@pytest.mark.parametrize("shape", [(64, 48), (33, 70), (16, 16), (9, 12)])
def test_resize_image_is_antialiased_and_linear(shape):
    image = np.random.default_rng(1).uniform(0, 255, shape).astype(np.float32)
    expected = triangle_resize(triangle_resize(image, 16).T, 16).T
    resized = images.resize_image(image, 16, 16)
    assert resized.dtype == np.uint8
    np.testing.assert_allclose(resized, expected, atol=0.5 + 1e-3)


def test_resize_mask_keeps_what_is_half_covered():
    mask = np.zeros((4, 4), bool)
    mask[:2, 0] = True  # half of the upper left quarter
    mask[0, 2] = True  # a quarter of the upper right one
    mask[2:, 2:] = True
    resized = images.resize_mask(mask, 2, 2)
    assert resized.dtype == np.uint8
    np.testing.assert_array_equal(resized, [[1, 0], [0, 1]])


def test_luminance_of_grey_is_grey(tmp_path):
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    path = save(tmp_path / "a.png", (color.gray2rgb(gray)))
    np.testing.assert_array_equal(images.read(path), gray)
