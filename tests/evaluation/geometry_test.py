"""Tests of multimix_jax.evaluation.geometry."""

import jax
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist
from skimage.metrics import hausdorff_distance
from skimage.segmentation import find_boundaries

from multimix_jax.evaluation import geometry

signed_distance = jax.jit(geometry.signed_distance)


def random_masks(shape, seed):
    """Two overlapping solid boxes with holes and specks."""
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(2):
        mask = rng.random(shape) < 0.03
        corner = [rng.integers(0, side // 2) for side in shape]
        box = tuple(slice(low, low + side // 2) for low, side in zip(corner, shape, strict=True))
        mask[box] |= rng.random(mask[box].shape) < 0.9
        masks.append(mask)
    return masks


def test_surface_by_hand():
    mask = np.zeros((6, 6), bool)
    mask[1:5, 0:4] = True
    mask[1, 0] = False
    want = mask.copy()
    # A diagonal neighbour outside does not make (2, 1) a surface pixel; the image's edge does
    # make one of the first column.
    want[2:4, 1:3] = False
    np.testing.assert_array_equal(geometry.surface(mask), want)


@pytest.mark.parametrize("shape", [(17, 23), (9, 8, 11)])
def test_surface_equals_inner_boundaries(shape):
    mask, _ = random_masks(shape, 0)
    want = find_boundaries(np.pad(mask, 1), connectivity=1, mode="inner")
    want = want[(slice(1, -1),) * mask.ndim]
    np.testing.assert_array_equal(geometry.surface(mask), want)


@pytest.mark.parametrize("make", [np.ones, np.zeros])
def test_surface_of_full_and_empty(make):
    mask = make((4, 5), bool)
    want = mask.copy()
    want[1:-1, 1:-1] = False
    np.testing.assert_array_equal(geometry.surface(mask), want)


def test_probabilities_are_refused():
    with pytest.raises(ValueError, match="float64, expected bool"):
        geometry.surface(np.full((4, 4), 0.3))


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((21, 16), None), ((21, 16), (0.7, 2.5)), ((9, 12, 7), None), ((9, 12, 7), (1.0, 0.5, 3.0))],
)
def test_distances_equal_brute_force(shape, spacing):
    for seed in range(4):
        prediction, truth = random_masks(shape, seed)
        points = [
            np.argwhere(geometry.surface(mask)) * np.asarray(spacing or 1.0)
            for mask in (prediction, truth)
        ]
        matrix = cdist(*points)
        got = geometry.surface_distances(prediction, truth, spacing)
        for distances, axis in zip(got, (1, 0), strict=True):
            np.testing.assert_allclose(distances, matrix.min(axis), atol=1e-12)


def test_greatest_distance_is_scikit_images_hausdorff_distance():
    for seed in range(4):
        prediction, truth = random_masks((24, 30), seed)
        want = hausdorff_distance(geometry.surface(prediction), geometry.surface(truth))
        got = geometry.surface_distances(prediction, truth)
        assert max(map(np.max, got)) == pytest.approx(want, abs=5e-8)


def test_distance_of_far_corners():
    prediction, truth = np.zeros((2, 40, 30), bool)
    prediction[0, 0] = truth[39, 29] = True
    for distances in geometry.surface_distances(prediction, truth, (2.0, 1.0)):
        np.testing.assert_allclose(distances, [np.hypot(78, 29)])


@pytest.mark.parametrize(
    ("shape", "spacing", "words"),
    [
        ((4, 5), None, "but truth"),
        ((4, 4), None, "empty"),
        ((4, 4), (1.0,), "2 positive"),
        ((4, 4), (0.0, 0.0), "2 positive"),
    ],
)
def test_masks_without_distances_are_refused(shape, spacing, words):
    truth = np.full((4, 4), words != "empty")
    with pytest.raises(ValueError, match=words):
        geometry.surface_distances(np.ones(shape, bool), truth, spacing)


def expected_signed_distance(mask):
    """By SciPy and scikit-image, as published."""
    if not mask.any() or mask.all():
        return np.where(mask, -1.0, 1.0)
    depth, away = (ndimage.distance_transform_edt(m) for m in (mask, ~mask))
    signed = away / away.max() - depth / depth.max()
    signed[find_boundaries(mask, mode="inner", connectivity=1)] = 0
    return signed


@pytest.mark.parametrize("sides", [(17, 12), (9, 12, 7)])
def test_signed_distance_equals_scipy(sides):
    noise = np.random.default_rng(0).normal(size=(3, *sides, 2))
    masks = np.stack([[ndimage.gaussian_filter(x, 1.5) > 0 for x in np.moveaxis(image, -1, 0)]
                      for image in noise])  # fmt: skip
    masks = np.moveaxis(masks, 1, -1)
    got = signed_distance(masks)
    for image, found in zip(masks, np.asarray(got)):
        for channel in range(2):
            want = expected_signed_distance(image[..., channel])
            np.testing.assert_allclose(found[..., channel], want, atol=1e-6)


def test_signed_distance_by_hand():
    row = np.array([0, 0, 1, 1, 1, 1, 1, 0]).reshape(1, 1, 8, 1)
    got = signed_distance(np.broadcast_to(row, (1, 6, 8, 1)))[0, 3, :, 0]
    np.testing.assert_allclose(got, [1, 0.5, 0, -2 / 3, -1, -2 / 3, 0, 0.5], atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 4, 5, 1), (1, 4, 5, 6, 1)])
def test_signed_distance_of_empty_full_and_one_pixel(shape):
    empty = np.zeros(shape, np.uint8)
    np.testing.assert_array_equal(signed_distance(empty), 1)
    np.testing.assert_array_equal(signed_distance(1 - empty), -1)
    empty[(0, *[1] * (len(shape) - 2), 0)] = 1
    got = np.asarray(signed_distance(empty))
    assert (got[empty > 0], got.max()) == (0, 1)
    assert got[empty == 0].min() > 0


def test_largest_component_of_each_channel():
    mask = np.zeros((6, 7, 5, 3), bool)
    mask[:2, :2, :2, 0] = True  # 8
    mask[2, 2, 2, 0] = True  # touches by a corner only
    mask[4:, 4:, :3, 0] = True  # 18
    mask[0, 0, 0, 1] = True
    want = np.zeros_like(mask)
    want[4:, 4:, :3, 0] = True
    want[0, 0, 0, 1] = True
    np.testing.assert_array_equal(geometry.largest_components(mask, 1), want)
    np.testing.assert_array_equal(geometry.largest_components(mask, 0), mask)


def test_largest_components_two_lungs_without_the_border():
    mask = np.zeros((9, 9, 1), bool)
    mask[1:8, 1:3] = True
    mask[1:8, 5:8] = True
    want = mask.copy()
    mask[:, 8] = mask[:, 4] = False
    mask[0, 8] = True
    np.testing.assert_array_equal(geometry.largest_components(mask, 2), want)
    np.testing.assert_array_equal(geometry.largest_components(mask, 3), mask)
    np.testing.assert_array_equal(geometry.largest_components(mask, 9), mask)
