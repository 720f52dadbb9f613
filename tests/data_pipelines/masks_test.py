"""Tests of data_pipelines.files.masks and of data_pipelines.sets.mask_values."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.files import masks
from data_pipelines.sets import mask_values
from multimix_jax.labels import VOID

LEVELS = np.repeat(np.arange(4), 16).reshape(8, 8)  # two rows of each


def save(path, pixels, mode="", **options):
    image = Image.fromarray(np.asarray(pixels))
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def coded(path, *values):
    """A file of the values, each on two rows of eight pixels."""
    return save(path, np.resize(np.array(values, np.uint8), 4)[LEVELS])


def palette(path, pixels, *colours):
    image = Image.fromarray(np.asarray(pixels, np.uint8), mode="P")
    image.putpalette([band for colour in colours for band in colour])
    image.save(path)
    return path


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(1, np.uint8), (255, np.uint8), (65535, np.uint16), (255, np.uint16), (1.0, np.float32)],
)
def test_masks_of_any_scale_read_alike(tmp_path, scale, dtype):
    path = save(tmp_path / "a.tif", np.array([[0, scale], [scale, 0]], dtype))
    read = masks.read_soft(path)
    assert read.dtype == bool
    np.testing.assert_array_equal(read, [[False, True], [True, False]])
    assert mask_values.find([path]) is None


def test_soft_mask_is_cut_at_half_of_full_scale(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 127, 128, 200, 250]], np.uint8))
    np.testing.assert_array_equal(masks.read_soft(path), [[False, False, True, True, True]])


@pytest.mark.parametrize(
    ("highest", "dtype", "scale"),
    [(2, np.uint8, 255), (100, np.uint8, 255), (4095, np.uint16, 65535), (0.4, np.float32, 1)],
)
def test_values_that_never_pass_are_an_error(tmp_path, highest, dtype, scale):
    path = save(tmp_path / "a.tif", np.array([[0, highest]], dtype))
    match = rf"a\.tif marks no pixel: .* the values 0, {highest}, .*scale {scale}; .*mask_values"
    with pytest.raises(DataError, match=match):
        masks.read_soft(path)


def test_zeros_mark_nothing(tmp_path):
    assert not masks.read_soft(save(tmp_path / "a.png", np.zeros((2, 2), np.uint8))).any()


def test_colours_and_alpha_that_differ(tmp_path):
    values = np.zeros((4, 4, 4), np.uint8)
    values[:2, ..., :3], values[..., 3] = 255, 255
    values[:2, ..., 3] = np.array([[255, 255, 0, 0]] * 2)
    path = save(tmp_path / "a.png", values)
    with pytest.raises(DataError, match=r"a\.png marks some pixels by its colours and others by"):
        masks.read_soft(path)
    values[:2, 2:, :3] = 0
    values[2:, ..., 3] = 0
    np.testing.assert_array_equal(masks.read_soft(save(path, values)), values[..., 0] > 0)


@pytest.mark.parametrize(("white", "inside"), [(1, 1), (0, 0)])
def test_palettes_of_grey_are_grey(tmp_path, white, inside):
    colours = [(255, 255, 255), (0, 0, 0)] if white == 0 else [(0, 0, 0), (255, 255, 255)]
    path = palette(tmp_path / "a.png", [[0, 1]], *colours)
    np.testing.assert_array_equal(masks.read_soft(path)[0, inside], True)
    assert masks.read_soft(path).sum() == 1


def test_indices_are_classes_and_255_is_void(tmp_path):
    paths = [coded(tmp_path / "a.png", 0, 1, 255), coded(tmp_path / "b.png", 0, 2)]
    paths.append(coded(tmp_path / "c.png", 0, 255))
    found = mask_values.find(paths)
    assert (found.names, found.void) == (("1", "2"), True)
    read = found.read(paths[0])
    np.testing.assert_array_equal(read[::2, 0], [[0, 0], [1, 0], [VOID, VOID], [0, 0]])
    np.testing.assert_array_equal(found.read(paths[1])[2, 0], [0, 1])
    assert mask_values.from_json(mask_values.to_json([found, None])) == [found, None]


def test_a_class_and_void_alone(tmp_path):
    found = mask_values.find([coded(tmp_path / "a.png", 0, 1, 255)])
    assert found == mask_values.MaskValues({0: -1, 1: 0, 255: VOID})


def test_palettes_are_read_by_index(tmp_path):
    colours = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 128)]
    paths = [palette(tmp_path / "a.png", LEVELS, *colours)]
    paths.append(palette(tmp_path / "b.png", LEVELS // 3 * 3, *colours))
    found = mask_values.find(paths)
    assert found.names == ("1", "2", "3")
    assert found.read(paths[1])[..., 2].sum() == 16
    colours[1] = (0, 0, 128)
    paths.append(palette(tmp_path / "c.png", LEVELS, *colours))
    with pytest.raises(DataError, match=r"c\.png has the colour \(0, 0, 128\) at place 1 .*a\.png"):
        mask_values.find(paths)


def test_colours_are_classes(tmp_path):
    colours = np.array([(0, 0, 0), (255, 0, 0), (0, 0, 255), (255, 255, 255)], np.uint8)
    path = save(tmp_path / "a.png", colours[LEVELS])
    found = mask_values.find([path])
    assert found.names == ("255", "#0000ff", "#ff0000")
    assert found.read(path).sum(axis=(0, 1)).tolist() == [16, 16, 16]
    one = save(tmp_path / "b.png", colours[LEVELS % 2])
    assert mask_values.find([one]).read(one)[..., 0].sum() == 32  # red alone is inside
    given = mask_values.parse("#ff0000=lung,#0000ff=lung, 255=outside")
    assert given.names == ("lung",)
    assert given.read(path).sum() == 32


def test_levels_that_may_be_classes_have_to_be_named(tmp_path):
    paths = [coded(tmp_path / "a.png", 0, 127, 255), coded(tmp_path / "b.png", 0, 255)]
    match = r"a\.png holds the values 0, 127, 255: neither .*mask_values=VALUE=NAME,.*'soft'"
    with pytest.raises(DataError, match=match):
        mask_values.find(paths)
    found = mask_values.parse("127=disc,255=cup")
    assert found.read(paths[0]).sum(axis=(0, 1)).tolist() == [16, 16]
    with pytest.raises(DataError, match=r"b\.png holds the values 128, 200, which .*does not name"):
        found.read(coded(tmp_path / "b.png", 0, 128, 200))
    assert mask_values.parse("soft") is None
    with pytest.raises(DataError, match=r"a\.png holds the values 0, 128: neither"):
        mask_values.find([coded(tmp_path / "a.png", 0, 128), coded(tmp_path / "b.png", 0, 255)])


def test_edges_are_no_classes(tmp_path):
    edge = np.zeros((8, 9), np.uint8)
    edge[:, 4], edge[:, 5:] = 127, 255
    smooth = np.arange(0, 250, 2, dtype=np.uint8).reshape(5, 25)
    paths = [save(tmp_path / "a.png", edge), save(tmp_path / "b.png", smooth)]
    paths.append(save(tmp_path / "c.jpg", edge, quality=60))
    paths.append(save(tmp_path / "d.webp", np.dstack([edge] * 3), quality=60))
    assert mask_values.find(paths) is None


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_classes_that_lossy_compression_changed_are_no_soft_mask(tmp_path, suffix):
    levels = np.repeat(np.array([0, 127, 255], np.uint8), 16)[:, None].repeat(48, axis=1)
    path = save(tmp_path / f"a.{suffix}", levels, quality=80)
    with pytest.raises(DataError, match=rf"a\.{suffix} has areas of values between .* as PNG"):
        mask_values.find([path])
    ramp = np.linspace(0, 255, 96).astype(np.uint8)[:, None].repeat(96, axis=1)
    assert mask_values.find([save(tmp_path / f"b.{suffix}", ramp, quality=80)]) is None


def test_soft_masks_among_those_of_classes(tmp_path):
    smooth = save(tmp_path / "b.png", np.arange(250, dtype=np.uint8).reshape(5, 50))
    with pytest.raises(DataError, match=r"b\.png holds .* 33, all masks the values 1, 2 that may"):
        mask_values.find([coded(tmp_path / "a.png", 0, 1, 2), smooth])


@pytest.mark.parametrize("text", ["1", "1=", "x=lung", "1=lung,", "0=outside", "#12=a,-1=b"])
def test_meanings_that_cannot_be(text):
    with pytest.raises(DataError, match=r"--config\.folder\.mask_values"):
        mask_values.parse(text)
