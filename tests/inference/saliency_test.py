"""Tests of the maps of what a classifier looks at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multimix_jax.inference import saliency

SHAPE = (2, 6, 5, 1)


@pytest.fixture
def images():
    return jnp.asarray(np.random.default_rng(0).uniform(0, 255, SHAPE), jnp.float32)


@pytest.fixture
def keys():
    return jax.random.split(jax.random.key(0), SHAPE[0])


def linear(weights):
    return lambda x: jnp.einsum("bhwc,khwc->bk", x, weights)


def test_smooth_gradient_of_a_linear_score_is_its_weights(images, keys):
    """Of the class that is strongest in each image; class 1 is in the first, by its signs."""
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(2, *SHAPE[1:])), jnp.float32)
    strongest = linear(weights)(images).argmax(-1)
    found = saliency.smooth_gradient(linear(weights), images, keys, noise=30.0, samples=3)
    np.testing.assert_allclose(found, weights[strongest], rtol=1e-5)


def test_smooth_gradient_smooths(images, keys):
    """The mean slope of |x - c| about a kink is that of its smoothing: erf of the distance."""
    score = lambda x: jnp.abs(x - 100.0).sum(axis=(1, 2))
    found = saliency.smooth_gradient(score, images, keys, noise=40.0, samples=3000)
    wanted = jax.scipy.special.erf((images - 100.0) / (40.0 * np.sqrt(2)))
    np.testing.assert_allclose(found, wanted, atol=0.1)


def test_noise_belongs_to_the_image(images, keys):
    score = lambda x: (x**3).sum(axis=(1, 2))
    both = saliency.smooth_gradient(score, images, keys, noise=10.0, samples=2)
    alone = saliency.smooth_gradient(score, images[1:], keys[1:], noise=10.0, samples=2)
    np.testing.assert_allclose(both[1:], alone, rtol=1e-6)


def test_integrated_gradients_add_up(images):
    """Completeness (Sundararajan et al. 2017, proposition 1)."""
    score = lambda x: jnp.stack([jnp.tanh(x / 200).sum((1, 2, 3)), (x / 300).sum((1, 2, 3))], -1)
    found = saliency.integrated_gradients(score, images, baseline=20.0, steps=200)
    strongest = score(images).argmax(-1)[:, None]
    at = lambda x: jnp.take_along_axis(score(x), strongest, axis=-1)[:, 0]
    wanted = at(images) - at(jnp.full(SHAPE, 20.0))
    np.testing.assert_allclose(found.sum((1, 2, 3)), wanted, rtol=1e-4)


def test_integrated_gradients_of_a_linear_score(images):
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(1, *SHAPE[1:])), jnp.float32)
    found = saliency.integrated_gradients(linear(weights), images, steps=4)
    np.testing.assert_allclose(found, images * weights, rtol=1e-5)
