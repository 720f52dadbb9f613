import jax.numpy as jnp
import numpy as np
import pytest

from multimix_jax.ops import interpolation
from tests import tiny
from tests.ops.oracles import assert_equals_reference, normal


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((4, 6), (8, 12)),
        ((5, 7), (10, 14)),
        ((5, 7), (9, 13)),
        ((16, 24), (2, 3)),
        ((3, 4), (3, 4)),
        ((1, 1), (2, 4)),
        ((1, 5), (2, 10)),
        ((7, 2), (1, 1)),
    ],
)
def test_equals_scipy(source, target):
    images = np.random.default_rng(0).normal(size=(2, *source, 3)).astype(np.float32)
    got = interpolation.resize_aligned(jnp.asarray(images), *target)
    want = [tiny.resized(image, *target) for image in images]
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_by_hand():
    image = jnp.asarray([0.0, 3.0]).reshape(1, 1, 2, 1)
    got = interpolation.resize_aligned(image, 2, 4)
    np.testing.assert_allclose(got[0, :, :, 0], [[0, 1, 2, 3]] * 2, atol=1e-6)


def test_keeps_dtype():
    image = jnp.ones((1, 2, 2, 1), jnp.bfloat16)
    assert interpolation.resize_aligned(image, 4, 4).dtype == jnp.bfloat16


@pytest.mark.parametrize("source", [(1, 1), (2, 5), (7, 4)])
def test_doubling_equals_scipy(source):
    images = np.random.default_rng(0).normal(size=(2, *source, 3)).astype(np.float32)
    got = interpolation.double_aligned(jnp.asarray(images))
    want = [tiny.resized(image, 2 * source[0], 2 * source[1]) for image in images]
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(("axis", "size"), [(1, 1), (1, 4), (2, 5)])
def test_taps_are_doubled_shifted_and_added(axis, size):
    shape = [2, 3, 3, 3, 5]
    shape[axis] = size
    taps = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    weights = interpolation.aligned_weights(size, 2 * size)
    doubled = np.moveaxis(taps, axis, -1) @ weights.T
    padded = np.pad(doubled, ((0, 0), (0, 0), (0, 0), (0, 0), (1, 1)))
    want = sum(padded[:, :, tap, :, tap : tap + 2 * size] for tap in range(3))
    got = interpolation.double_taps(jnp.asarray(taps), axis)
    np.testing.assert_allclose(np.moveaxis(got, axis, -1), want, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "features"), [((2, 3, 5, 4), 3), ((2, 8, 6, 2), 3), ((1, 1, 1, 2), 2)]
)
def test_doubled_convolution_equals_reference(shape, features):
    operands = normal(shape, (3, 3, shape[-1], features))
    fast, reference = interpolation.conv3x3_doubled, interpolation.conv3x3_doubled_reference
    assert_equals_reference(fast, reference, *operands)
