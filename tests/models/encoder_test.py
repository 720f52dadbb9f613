import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from multimix_jax.models import Encoder
from tests import tiny


class EncoderTest(parameterized.TestCase):
    @parameterized.parameters(((4, 8, 8),), ((4,),), ((2, 3, 4, 5, 6),))
    def test_shapes(self, filters):
        encoder = Encoder(filters)
        images = jax.ShapeDtypeStruct((2, 32, 48, 3), jnp.float32)
        features, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), images)
        self.assertEqual(
            [level.shape for level in features],
            [(2, 32 >> i, 48 >> i, width) for i, width in enumerate(filters)],
        )

    def test_published_filters(self):
        self.assertEqual(Encoder().filters, (16, 32, 64, 128, 256))
        self.assertEqual(Encoder().dropout_rate, 0.25)

    def test_equals_scipy(self):
        image = np.random.default_rng(0).normal(size=(8, 12, 2)).astype(np.float32)
        encoder = Encoder((3, 4))
        features, variables = encoder.init_with_output(jax.random.key(0), image[None])
        first = tiny.conv_block(image, variables["params"]["block1"])
        second = tiny.conv_block(tiny.pooled(first), variables["params"]["block2"])
        np.testing.assert_allclose(features[0][0], first, atol=1e-4)
        np.testing.assert_allclose(features[1][0], second, atol=1e-3)

    def test_bfloat16(self):
        images = jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32)
        encoder = Encoder((2, 2), dtype=jnp.bfloat16)
        features, variables = jax.eval_shape(encoder.init_with_output, jax.random.key(0), images)
        self.assertEqual({level.dtype for level in features}, {jnp.dtype(jnp.bfloat16)})
        self.assertEqual(
            {leaf.dtype for leaf in jax.tree.leaves(variables)}, {jnp.dtype("float32")}
        )


if __name__ == "__main__":
    absltest.main()
