import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from multimix_jax.models import ClassifierHead
from tests import tiny


class ClassifierHeadTest(parameterized.TestCase):
    @parameterized.parameters(2, 5)
    def test_equals_numpy(self, num_classes):
        features = np.random.default_rng(0).normal(size=(3, 4, 6, 7)).astype(np.float32)
        head = ClassifierHead(num_classes)
        logits, variables = head.init_with_output(jax.random.key(0), features)
        dense = jax.device_get(variables["params"]["logits"])
        means = np.stack([tiny.pooled(image).mean((0, 1)) for image in features])
        self.assertEqual(logits.shape, (3, num_classes))
        np.testing.assert_allclose(logits, means @ dense["kernel"] + dense["bias"], atol=1e-5)

    def test_logits_are_float32(self):
        features = jnp.ones((2, 2, 2, 3), jnp.bfloat16)
        head = ClassifierHead(dtype=jnp.bfloat16)
        logits, _ = head.init_with_output(jax.random.key(0), features)
        self.assertEqual(logits.dtype, jnp.float32)


if __name__ == "__main__":
    absltest.main()
