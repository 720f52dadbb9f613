"""Tests of multimix_jax.evaluation.geometry."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from skimage.metrics import hausdorff_distance
from skimage.segmentation import find_boundaries

from multimix_jax.evaluation import geometry


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
    want[2, 2, 2, 0] = True
    want[:2, :2, :2, 0] = True
    np.testing.assert_array_equal(geometry.largest_components(mask, (0, 1, 1)), want)
    np.testing.assert_array_equal(geometry.largest_components(want, (1, 0, 0))[..., 0].sum(), 18)


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
