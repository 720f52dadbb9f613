"""Tests of data_pipelines.resize."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.resize import ResizeSpec
from multimix_jax.labels import VOID


def ramp(height, width):
    return np.linspace(0, 255, height * width).reshape(height, width).astype(np.float32)


@pytest.mark.parametrize("sides", [(40, 40), (20, 80), (100, 3)])
def test_squash_covers_all(sides):
    spec = ResizeSpec(32)
    image = spec.image(ramp(*sides))
    wanted = np.asarray(Image.fromarray(ramp(*sides)).resize((32, 32), Image.Resampling.BILINEAR))
    assert image.shape == (32, 32, 1) and image.dtype == np.uint8
    np.testing.assert_allclose(image[..., 0], wanted, atol=0.51)
    assert spec.inside(*sides) == (slice(0, 32), slice(0, 32))
    np.testing.assert_allclose(spec.spacing((0.5, 0.2), *sides), (sides[0] / 64, sides[1] / 160))


@pytest.mark.parametrize(
    ("sides", "rows", "columns"),
    [
        ((64, 32), (0, 32), (8, 24)),
        ((10, 20), (8, 24), (0, 32)),
        ((50, 50), (0, 32), (0, 32)),
        ((1000, 1), (0, 32), (15, 16)),
    ],
)
def test_pad_keeps_the_ratio(sides, rows, columns):
    spec = ResizeSpec(32, "pad")
    assert spec.inside(*sides) == (slice(*rows), slice(*columns))
    image = spec.image(np.full(sides, 200, np.float32))[..., 0]
    covered = np.zeros((32, 32), bool)
    covered[spec.inside(*sides)] = True
    np.testing.assert_array_equal(image, np.where(covered, 200, 0))
    np.testing.assert_array_equal(spec.masks(np.ones((*sides, 1), bool))[..., 0], covered)
    height, width = rows[1] - rows[0], columns[1] - columns[0]
    np.testing.assert_allclose(spec.spacing((1, 1), *sides), (sides[0] / height, sides[1] / width))


def test_colours():
    colours = np.stack([np.full((5, 7), value, np.float32) for value in (10, 20, 30)], axis=-1)
    spec = ResizeSpec(16, channels=3)
    np.testing.assert_array_equal(spec.image(colours), np.broadcast_to((10, 20, 30), (16, 16, 3)))
    np.testing.assert_array_equal(spec.image(colours[..., 1]), np.full((16, 16, 3), 20))
    with pytest.raises(ValueError, match="for 1 channels"):
        ResizeSpec(16).image(colours)


def test_names_tell_them_apart():
    assert ResizeSpec(64).variant == "size64"
    assert ResizeSpec(64, "pad", 3).variant == "size64_pad_rgb"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (dict(size=40), "size=40, but images are prepared at a positive multiple of 16"),
        (dict(size=64, fit="crop"), "fit='crop'; set --config.fit to squash or pad"),
        (dict(size=64, channels=2), "images of 2 channels cannot be prepared"),
    ],
)
def test_what_cannot_be(fields, words):
    with pytest.raises(DataError, match=words):
        ResizeSpec(**fields)


def test_what_is_too_thin_does_not_vanish():
    masks = np.zeros((128, 128, 3), bool)
    masks[64:67, 8:120, 0] = True  # three pixels wide, where eight become one
    masks[40, 40, 1] = True
    placed = ResizeSpec(16).masks(masks)
    expected = np.zeros((16, 16), np.uint8)
    expected[8, 1:15] = 1
    np.testing.assert_array_equal(placed[..., 0], expected)
    assert placed[5, 5, 1] == 1 and placed[..., 1].sum() == 1
    assert not placed[..., 2].any()


def test_void_is_void_where_it_covers_half():
    masks = np.zeros((64, 32, 2), np.uint8)
    masks[:32, :, 1] = 1
    masks[:4, :2] = VOID  # half of the first pixel
    masks[31:33] = VOID  # a quarter of two rows
    masks[33:35, :, 0] = 1  # more than half of what is left
    placed = ResizeSpec(16, "pad").masks(masks)
    columns = slice(4, 12)
    assert placed[0, 4].tolist() == [VOID, VOID] and (placed == VOID).sum() == 2
    assert placed[1:8, columns, 1].all() and not placed[8:, :, 1].any()
    assert placed[8, columns, 0].all()
    assert not placed[:, :4].any()
