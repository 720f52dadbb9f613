import jax
import numpy as np
import pytest
from scipy import ndimage
from skimage.segmentation import find_boundaries

from multimix_jax.ops import distance

signed_distance = jax.jit(distance.signed_distance)


def expected_signed_distance(mask):
    """By SciPy and scikit-image, as published."""
    if not mask.any() or mask.all():
        return np.where(mask, -1.0, 1.0)
    depth, away = (ndimage.distance_transform_edt(m) for m in (mask, ~mask))
    signed = away / away.max() - depth / depth.max()
    signed[find_boundaries(mask, mode="inner", connectivity=1)] = 0
    return signed


@pytest.mark.parametrize("sides", [(17, 12), (9, 12, 7)])
def test_equals_scipy(sides):
    noise = np.random.default_rng(0).normal(size=(3, *sides, 2))
    masks = np.stack([[ndimage.gaussian_filter(x, 1.5) > 0 for x in np.moveaxis(image, -1, 0)]
                      for image in noise])  # fmt: skip
    masks = np.moveaxis(masks, 1, -1)
    got = signed_distance(masks)
    for image, distances in zip(masks, np.asarray(got)):
        for channel in range(2):
            want = expected_signed_distance(image[..., channel])
            np.testing.assert_allclose(distances[..., channel], want, atol=1e-6)
            reference = distance.signed_distance_reference(image[..., channel])
            np.testing.assert_allclose(reference, want, atol=1e-12)


def test_by_hand():
    row = np.array([0, 0, 1, 1, 1, 1, 1, 0]).reshape(1, 1, 8, 1)
    got = signed_distance(np.broadcast_to(row, (1, 6, 8, 1)))[0, 3, :, 0]
    np.testing.assert_allclose(got, [1, 0.5, 0, -2 / 3, -1, -2 / 3, 0, 0.5], atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 4, 5, 1), (1, 4, 5, 6, 1)])
def test_empty_full_and_one_pixel(shape):
    empty = np.zeros(shape, np.uint8)
    np.testing.assert_array_equal(signed_distance(empty), 1)
    np.testing.assert_array_equal(signed_distance(1 - empty), -1)
    empty[(0, *[1] * (len(shape) - 2), 0)] = 1
    got = np.asarray(signed_distance(empty))
    assert (got[empty > 0], got.max()) == (0, 1)
    assert got[empty == 0].min() > 0
