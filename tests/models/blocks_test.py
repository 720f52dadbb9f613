import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multimix_jax.models import blocks
from tests import tiny

KEYS = jax.random.split(jax.random.key(0), 4)
ONES = jnp.ones((4, 25, 31, 3))


class TwoDropouts(nn.Module):
    @nn.compact
    def __call__(self, x, keys):
        layers = [blocks.ExampleDropout(0.5, name=name) for name in ("first", "second")]
        return tuple(layer(x, keys) for layer in layers)


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.1])
def test_dropout_rate_and_scale(rate):
    got = np.asarray(blocks.ExampleDropout(rate).apply({}, ONES, KEYS))
    kept = got != 0
    deviation = np.sqrt(rate * (1 - rate) / got.size)
    assert kept.mean() == pytest.approx(1 - rate, rel=0, abs=4 * deviation + 1 / 512)
    np.testing.assert_allclose(got[kept], 1 / (1 - rate), rtol=1 / 256)
    assert got.mean() == pytest.approx(1, rel=0, abs=5 * deviation / (1 - rate))


def test_pixels_are_independent():
    got = np.asarray(blocks.ExampleDropout(0.5).apply({}, ONES, KEYS))
    flat = got.reshape(4, -1)
    neighbours = [np.corrcoef(flat[:, :-lag].ravel(), flat[:, lag:].ravel()) for lag in (1, 3, 4)]
    between = np.corrcoef(flat)
    for correlation in (*(n[0, 1] for n in neighbours), *between[np.triu_indices(4, 1)]):
        assert abs(correlation) < 0.1


def test_off_without_keys_or_rate():
    x = jax.random.normal(jax.random.key(1), (2, 3, 3, 1))
    np.testing.assert_array_equal(blocks.ExampleDropout(0.25).apply({}, x, None), x)
    np.testing.assert_array_equal(blocks.ExampleDropout(0.0).apply({}, x, KEYS[:2]), x)


def test_mask_depends_on_own_key_only():
    drop = lambda part: blocks.ExampleDropout(0.25).apply({}, ONES[part], KEYS[part])
    halves = jnp.concatenate([drop(slice(0, 2)), drop(slice(2, 4))])
    np.testing.assert_array_equal(drop(slice(0, 4)), halves)


def test_layers_differ():
    first, second = TwoDropouts().apply({}, ONES, KEYS)
    assert float((first == second).mean()) == pytest.approx(0.5, rel=0, abs=0.05)


def test_gradient_passes_where_kept():
    drop = lambda x: blocks.ExampleDropout(0.25).apply({}, x, KEYS)
    np.testing.assert_array_equal(jax.grad(lambda x: drop(x).sum())(ONES), drop(ONES))


def test_keeps_dtype():
    got = blocks.ExampleDropout(0.25).apply({}, ONES.astype(jnp.bfloat16), KEYS)
    assert got.dtype == jnp.bfloat16


def test_torch_initializer_is_uniform_within_the_bound():
    bound = 1 / np.sqrt(90)
    for init in blocks.initializers("torch", 90).values():
        values = np.asarray(init(jax.random.key(0), (100, 300)))
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.999 * bound
        assert values.std() / (bound / np.sqrt(3)) == pytest.approx(1, rel=0, abs=0.01)
        assert values.mean() / bound == pytest.approx(0, rel=0, abs=0.02)


def test_every_layer_has_its_own_fan_in():
    def check(layer):
        fan_in = np.prod(layer["kernel"].shape[:-1])
        bound = 1 / np.sqrt(fan_in)
        values = np.concatenate([np.ravel(layer["kernel"]), layer["bias"]])
        assert np.abs(values).max() <= bound
        assert np.abs(layer["bias"]).max() > 0
        if layer["kernel"].size > 100:
            spread = np.std(layer["kernel"]) / (bound / np.sqrt(3))
            assert spread == pytest.approx(1, rel=0, abs=0.15)

    images = jnp.zeros((1, tiny.SIDE, tiny.SIDE, 1))
    params = jax.jit(tiny.model().init)(jax.random.key(0), images)["params"]
    is_layer = lambda node: isinstance(node, dict) and "kernel" in node
    layers = jax.tree.leaves(params, is_leaf=is_layer)
    # Two blocks of the encoder, one of the decoder, and two heads.
    assert len(layers) == 8
    for layer in layers:
        check(layer)


def test_flax_initializers():
    inits = blocks.initializers("flax", 90)
    np.testing.assert_array_equal(inits["bias_init"](jax.random.key(0), (5,)), 0)
    kernel = np.asarray(inits["kernel_init"](jax.random.key(0), (3, 3, 10, 200)))
    assert kernel.std() * np.sqrt(90) == pytest.approx(1, rel=0, abs=0.03)


def test_unknown_initializer():
    with pytest.raises(ValueError, match="initializer='he' is unknown; use 'torch' or 'flax'"):
        blocks.initializers("he", 9)


def test_block_equals_scipy():
    images = np.random.default_rng(0).normal(size=(2, 9, 6, 3)).astype(np.float32)
    block = blocks.ConvBlock(4)
    variables = block.init(jax.random.key(0), images)
    got = block.apply(variables, images)
    want = [tiny.conv_block(image, variables["params"]) for image in images]
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_dropout_comes_last():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    block = blocks.ConvBlock(4)
    variables = block.init(jax.random.key(1), x)
    off = block.apply(variables, x)
    on = block.apply(variables, x, jax.random.split(jax.random.key(2), 2))
    assert (on == 0).any()
    np.testing.assert_allclose(on, jnp.where(on == 0, 0, off / 0.75), rtol=1e-6)


def test_devices_count_as_one_batch():
    """Values, statistics and gradients, by 1 device and by 4."""
    x = 2.0 + jax.random.normal(jax.random.key(0), (8, 3, 4, 5))
    gradient = jax.random.normal(jax.random.key(1), x.shape)
    bias = jax.random.uniform(jax.random.key(2), (5,), minval=-1.0, maxval=1.5)
    net = lambda axis: blocks.BatchNormRelu(axis)
    variables = net(None).init(jax.random.key(0), x, bias, train=True)

    def run(axis, x, gradient):
        def loss(params, x):
            current = {"params": params, "batch_stats": variables["batch_stats"]}
            y, updated = net(axis).apply(current, x, bias, train=True, mutable=["batch_stats"])
            return (y * gradient).sum(), (y, updated)

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)

    (to_params, to_x), (y, updated) = run(None, x, gradient)
    split = lambda array: array.reshape(4, 2, *array.shape[1:])
    mapped = jax.pmap(functools.partial(run, "batch"), axis_name="batch")
    (parts, of_x), (of_y, stats) = mapped(split(x), split(gradient))
    np.testing.assert_allclose(of_y.reshape(y.shape), y, atol=1e-5)
    np.testing.assert_allclose(of_x.reshape(x.shape), to_x, atol=1e-4)
    for name in ("scale", "bias"):
        np.testing.assert_allclose(parts[name].sum(0), to_params[name], atol=1e-4)
    for name in ("mean", "var"):
        got, want = stats["batch_stats"][name], updated["batch_stats"][name]
        np.testing.assert_allclose(got, np.tile(want, (4, 1)), rtol=1e-4)
