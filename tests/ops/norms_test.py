import jax
import jax.numpy as jnp
import numpy as np

from multimix_jax.ops import norms


def test_instance_norm_equals_numpy():
    x = np.random.default_rng(0).normal(3, 2, (2, 5, 7, 3))
    z = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    want = np.where(z > 0, z, 0.2 * z)
    np.testing.assert_allclose(
        norms.instance_norm_relu(jnp.asarray(x, jnp.float32)), want, atol=1e-5
    )


def test_instance_norm_with_a_mean_far_from_zero():
    # A variance taken from the mean of the squares would be off here.
    x = np.random.default_rng(0).normal(30, 1, (1, 32, 32, 2))
    z = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    want = np.where(z > 0, z, 0.2 * z)
    np.testing.assert_allclose(
        norms.instance_norm_relu(jnp.asarray(x, jnp.float32)), want, atol=3e-4
    )


def test_statistics_of_bfloat16_are_float32():
    # 256 + 0..14: with eight bits the mean and the squares would be off by whole units.
    x = 256 + 2 * np.random.default_rng(0).integers(0, 8, (1, 16, 16, 2)).astype(np.float64)
    got = norms.instance_norm_relu(jnp.asarray(x, jnp.bfloat16))
    assert got.dtype == jnp.bfloat16
    z = (x - x.mean((1, 2))) / np.sqrt(x.var((1, 2)) + 1e-5)
    np.testing.assert_allclose(got.astype(jnp.float32), np.where(z > 0, z, 0.2 * z), rtol=2**-7)


def test_constant_image_is_finite():
    x = jnp.full((1, 4, 4, 1), 7.0)
    np.testing.assert_array_equal(norms.instance_norm_relu(x), 0)
    gradient = jax.grad(lambda x: norms.instance_norm_relu(x).sum())(x)
    np.testing.assert_allclose(gradient, 0, atol=1e-3)


def test_first_and_second_derivative_equal_those_of_the_reference():
    keys = jax.random.split(jax.random.key(0), 3)
    x, weights, direction = (jax.random.normal(key, (2, 5, 7, 3)) for key in keys)

    def first(norm):
        return jax.grad(lambda x: (weights * norm(x)).sum())

    def second(norm):
        return jax.grad(lambda x: (direction * first(norm)(x)).sum())

    for derivative in (first, second):
        got, want = (
            derivative(norms.instance_norm_relu)(x),
            derivative(norms.instance_norm_relu_reference)(x),
        )
        np.testing.assert_allclose(got, want, atol=1e-5 * float(jnp.abs(want).max()))


def test_batch_norm_equals_reference():
    keys = jax.random.split(jax.random.key(0), 4)
    x = 2.0 + jax.random.normal(keys[0], (8, 3, 4, 5))
    scale, bias = jax.random.uniform(keys[1], (2, 5), minval=-1.0, maxval=1.5)
    gradient = jax.random.normal(keys[2], x.shape)
    ours = lambda x, scale, bias: norms.batch_norm_relu(x, scale, bias, None)[0]
    got, pull_back = jax.vjp(ours, x, scale, bias)
    want, pull_back_reference = jax.vjp(norms.batch_norm_relu_reference, x, scale, bias)
    np.testing.assert_allclose(got, want, atol=1e-5)
    for mine, other in zip(pull_back(gradient), pull_back_reference(gradient), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)
