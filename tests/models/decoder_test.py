import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from multimix_jax.models import Decoder
from tests import tiny

RNG = np.random.default_rng(0)


def features(*widths, size=2, side=16):
    """One level per width, each half the size of the one before."""
    return [
        RNG.normal(size=(size, side >> i, side >> i, width)).astype(np.float32)
        for i, width in enumerate(widths)
    ]


class DecoderTest(parameterized.TestCase):
    @parameterized.parameters(1, 3)
    def test_shape(self, mask_channels):
        decoder = Decoder((5, 4, 3), mask_channels)
        logits, variables = jax.eval_shape(
            decoder.init_with_output, jax.random.key(0), features(3, 4, 5, 6)
        )
        self.assertEqual(logits.shape, (2, 16, 16, mask_channels))
        kernels = [variables["params"][f"block{i}"]["conv1"]["kernel"].shape for i in (1, 2, 3)]
        self.assertEqual(kernels, [(3, 3, 6 + 5, 5), (3, 3, 5 + 4, 4), (3, 3, 4 + 3, 3)])

    @parameterized.parameters(False, True)
    def test_equals_scipy(self, with_bridge):
        skip, deep = features(3, 4, size=1, side=8)
        bridge = RNG.normal(size=(1, 8, 8, 2)).astype(np.float32) if with_bridge else None
        decoder = Decoder((3,), 2)
        logits, variables = decoder.init_with_output(jax.random.key(0), [skip, deep], bridge)
        parts = [tiny.resized(deep[0], 8, 8), skip[0]] + ([bridge[0]] if with_bridge else [])
        params = jax.device_get(variables["params"])
        hidden = tiny.conv_block(np.concatenate(parts, axis=-1), params["block1"])
        want = hidden @ params["logits"]["kernel"][0, 0] + params["logits"]["bias"]
        np.testing.assert_allclose(logits[0], want, atol=1e-4)

    def test_bridge_joins_the_first_stage_only(self):
        levels, bridge = features(2, 3, 4), jnp.ones((2, 8, 8, 2))
        shapes = [
            jax.eval_shape(Decoder((3, 2)).init, jax.random.key(0), levels, joined)["params"]
            for joined in (None, bridge)
        ]
        widths = [
            [params[block]["conv1"]["kernel"].shape[2] for block in ("block1", "block2")]
            for params in shapes
        ]
        self.assertEqual(widths, [[4 + 3, 3 + 2], [4 + 3 + 2, 3 + 2]])

    def test_levels_must_fit(self):
        with pytest.raises(ValueError):
            jax.eval_shape(Decoder((3, 2)).init, jax.random.key(0), features(2, 3, 4, 5))

    def test_logits_are_float32(self):
        decoder = Decoder((2,), dtype=jnp.bfloat16)
        levels = [level.astype(jnp.bfloat16) for level in features(2, 3)]
        logits, _ = jax.eval_shape(decoder.init_with_output, jax.random.key(0), levels)
        self.assertEqual(logits.dtype, jnp.float32)


if __name__ == "__main__":
    absltest.main()
