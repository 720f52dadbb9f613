import jax
import jax.numpy as jnp
import numpy as np

from multimix_jax.ops.pooling import max_pool, max_pool_reference
from tests import tiny
from tests.ops.oracles import assert_equals_reference, normal


def test_equals_reference():
    assert_equals_reference(max_pool, max_pool_reference, *normal((2, 7, 6, 3)))


def test_equals_numpy():
    images = np.random.default_rng(0).normal(size=(2, 6, 4, 3)).astype(np.float32)
    want = [tiny.pooled(image) for image in images]
    np.testing.assert_array_equal(max_pool(jnp.asarray(images)), want)


def test_odd_rows_and_columns_are_left_out():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 3, 2)))
    np.testing.assert_array_equal(max_pool(images), max_pool(images[:, :4, :2]))


def test_gradient_goes_to_the_first_of_equals():
    images = np.random.default_rng(0).integers(0, 3, (2, 8, 6, 3)).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=(2, 4, 3, 3)).astype(np.float32)
    want = np.zeros_like(images)
    for b, i, j, c in np.ndindex(weights.shape):
        window = images[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        di, dj = np.unravel_index(window.argmax(), (2, 2))
        want[b, 2 * i + di, 2 * j + dj, c] = weights[b, i, j, c]
    got = jax.grad(lambda x: (weights * max_pool(x)).sum())(jnp.asarray(images))
    np.testing.assert_array_equal(got, want)
