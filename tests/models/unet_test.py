import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multimix_jax.models import Decoder, Encoder
from tests import tiny

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("filters", [(4, 8, 8), (4,), (2, 3, 4, 5, 6)])
def test_encoder_shapes(filters):
    encoder = Encoder(filters)
    images = jax.ShapeDtypeStruct((2, 32, 48, 3), jnp.float32)
    features, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), images)
    assert [level.shape for level in features] == [
        (2, 32 >> i, 48 >> i, width) for i, width in enumerate(filters)
    ]


def test_encoder_published_filters():
    assert Encoder().filters == (16, 32, 64, 128, 256)
    assert Encoder().dropout_rate == 0.25


def test_encoder_equals_scipy():
    image = np.random.default_rng(0).normal(size=(8, 12, 2)).astype(np.float32)
    encoder = Encoder((3, 4))
    features, variables = encoder.init_with_output(jax.random.key(0), image[None])
    first = tiny.conv_block(image, variables["params"]["block1"])
    second = tiny.conv_block(tiny.pooled(first), variables["params"]["block2"])
    np.testing.assert_allclose(features[0][0], first, atol=1e-4)
    np.testing.assert_allclose(features[1][0], second, atol=1e-3)


def test_encoder_bfloat16():
    images = jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32)
    encoder = Encoder((2, 2), dtype=jnp.bfloat16)
    features, variables = jax.eval_shape(encoder.init_with_output, jax.random.key(0), images)
    assert {level.dtype for level in features} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def features(*widths, size=2, side=16):
    """One level per width, each half the size of the one before."""
    return [
        RNG.normal(size=(size, side >> i, side >> i, width)).astype(np.float32)
        for i, width in enumerate(widths)
    ]


@pytest.mark.parametrize("mask_channels", [1, 3])
def test_decoder_shapes(mask_channels):
    decoder = Decoder((5, 4, 3), mask_channels)
    logits, variables = jax.eval_shape(
        decoder.init_with_output, jax.random.key(0), features(3, 4, 5, 6)
    )
    assert logits.shape == (2, 16, 16, mask_channels)
    kernels = [variables["params"][f"block{i}"]["conv1"]["kernel"].shape for i in (1, 2, 3)]
    assert kernels == [(3, 3, 6 + 5, 5), (3, 3, 5 + 4, 4), (3, 3, 4 + 3, 3)]


@pytest.mark.parametrize("with_bridge", [False, True])
def test_decoder_equals_scipy(with_bridge):
    skip, deep = features(3, 4, size=1, side=8)
    bridge = RNG.normal(size=(1, 8, 8, 2)).astype(np.float32) if with_bridge else None
    decoder = Decoder((3,), 2)
    logits, variables = decoder.init_with_output(jax.random.key(0), [skip, deep], bridge)
    parts = [tiny.resized(deep[0], 8, 8), skip[0]] + ([bridge[0]] if with_bridge else [])
    params = jax.device_get(variables["params"])
    hidden = tiny.conv_block(np.concatenate(parts, axis=-1), params["block1"])
    want = hidden @ params["logits"]["kernel"][0, 0] + params["logits"]["bias"]
    np.testing.assert_allclose(logits[0], want, atol=1e-4)


def test_decoder_bridge_joins_the_first_stage_only():
    levels, bridge = features(2, 3, 4), jnp.ones((2, 8, 8, 2))
    shapes = [
        jax.eval_shape(Decoder((3, 2)).init, jax.random.key(0), levels, joined)["params"]
        for joined in (None, bridge)
    ]
    widths = [
        [params[block]["conv1"]["kernel"].shape[2] for block in ("block1", "block2")]
        for params in shapes
    ]
    assert widths == [[4 + 3, 3 + 2], [4 + 3 + 2, 3 + 2]]


def test_decoder_levels_must_fit():
    with pytest.raises(ValueError):
        jax.eval_shape(Decoder((3, 2)).init, jax.random.key(0), features(2, 3, 4, 5))


def test_decoder_logits_are_float32():
    decoder = Decoder((2,), dtype=jnp.bfloat16)
    levels = [level.astype(jnp.bfloat16) for level in features(2, 3)]
    logits, _ = jax.eval_shape(decoder.init_with_output, jax.random.key(0), levels)
    assert logits.dtype == jnp.float32
