import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multimix_jax.models import SaliencyBridge, saliency_map
from tests import tiny

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(3, 4, 5, 2)).astype(np.float32)  # [K,H,W,C]
IMAGES = RNG.normal(size=(2, 4, 5, 2)).astype(np.float32)


def linear_score(images):
    return jnp.einsum("khwc,bhwc->bk", WEIGHTS, images)


def test_of_a_linear_score_is_the_strongest_class_weights():
    best = np.einsum("khwc,bhwc->bk", WEIGHTS, IMAGES).argmax(-1)
    want = np.abs(WEIGHTS[best]).max(-1, keepdims=True)
    np.testing.assert_allclose(saliency_map(linear_score, jnp.asarray(IMAGES)), want, rtol=1e-6)


def test_equals_finite_differences():
    def score(images, xp=np):
        hidden = xp.tanh(xp.einsum("khwc,bhwc->bk", WEIGHTS, images))
        return xp.concatenate([hidden, hidden**2], axis=-1)

    shifts = 1e-5 * np.eye(IMAGES[0].size).reshape(-1, *IMAGES[0].shape)
    for image in IMAGES:
        best = score(image[None])[0].argmax()
        up, down = (score(image + sign * shifts)[:, best] for sign in (1, -1))
        slopes = ((up - down) / 2e-5).reshape(image.shape)
        got = saliency_map(lambda x: score(x, jnp), jnp.asarray(image[None]))[0]
        want = np.abs(slopes).max(-1, keepdims=True)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)


def test_images_do_not_mix():
    model = tiny.model()
    apply = jax.jit(lambda x: model.apply(tiny.variables(model), x, method="saliency"))
    images = jax.random.normal(jax.random.key(0), (2, tiny.SIDE, tiny.SIDE, 1))
    first, second = apply(images)
    changed = apply(images.at[1].multiply(-2.0))
    np.testing.assert_array_equal(changed[0], first)
    assert np.abs(changed[1] - second).max() > 0
    assert first.min() > -1e-9
    assert first.max() > 0


@pytest.mark.parametrize(
    ("differentiable", "want"), [(False, 0.0), (True, 2 * np.abs(IMAGES).max(-1).sum())]
)
def test_second_order_gradient_only_if_asked_for(differentiable, want):
    # Of scale * sum(x^2) the map is |2 scale x|.
    def total(scale):
        score = lambda x: scale * jnp.square(x).sum(axis=(1, 2, 3))[:, None]
        return saliency_map(score, jnp.asarray(IMAGES), differentiable=differentiable).sum()

    np.testing.assert_allclose(jax.grad(total)(3.0), want, rtol=1e-5)


def test_stopped_by_default():
    total = lambda x: saliency_map(lambda x: jnp.square(x).sum((1, 2)), x).sum()
    np.testing.assert_array_equal(jax.grad(total)(jnp.asarray(IMAGES)), 0)


def test_keeps_dtype():
    got = saliency_map(lambda x: x.sum((1, 2)), jnp.ones((1, 4, 4, 2), jnp.bfloat16))
    assert (got.dtype, got.shape) == (jnp.bfloat16, (1, 4, 4, 1))


@pytest.mark.parametrize("factor", [1, 2, 8])
def test_equals_scipy(factor):
    images = RNG.normal(size=(2, 16, 24, 3)).astype(np.float32)
    saliency = RNG.random(size=(2, 16, 24, 1)).astype(np.float32)
    got = SaliencyBridge(factor).apply({}, jnp.asarray(images), jnp.asarray(saliency))
    joined = np.concatenate([images, saliency], axis=-1)
    want = [tiny.resized(image, 16 // factor, 24 // factor) for image in joined]
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_published_factor_and_no_weights():
    images = jnp.ones((1, 16, 16, 1))
    got, variables = SaliencyBridge().init_with_output(jax.random.key(0), images, images)
    assert got.shape == (1, 2, 2, 2)
    assert not jax.tree.leaves(variables)
