import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from scipy import ndimage

from multimix_jax.models import convolution

# Few channels and many; batches that divide into groups of 4, 3 and 1.
SHAPES = [
    ((4, 8, 6, 1), 5),
    ((8, 5, 7, 3), 4),
    ((4, 4, 4, 8), 4),
    ((6, 9, 8, 10), 5),
    ((5, 2, 3, 9), 2),
]


def operands(shape, features):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], shape)
    kernel = jax.random.normal(keys[1], (3, 3, shape[-1], features))
    gradient = jax.random.normal(keys[2], (*shape[:-1], features))
    return x, kernel, gradient


def plain(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


class Conv3x3Test(parameterized.TestCase):
    def test_equals_scipy(self):
        x, kernel, _ = (np.asarray(t, np.float64) for t in operands((2, 7, 5, 3), 4))
        want = np.zeros((2, 7, 5, 4))
        for b, c, k in np.ndindex(2, 3, 4):
            tap = kernel[:, :, c, k]
            want[b, :, :, k] += ndimage.correlate(x[b, :, :, c], tap, mode="constant")
        got = convolution.conv3x3(jnp.asarray(x), jnp.asarray(kernel))
        np.testing.assert_allclose(got, want, atol=1e-4)

    @parameterized.parameters(*SHAPES)
    def test_gradients_equal_those_of_lax(self, shape, features):
        x, kernel, gradient = operands(shape, features)
        got = jax.jit(lambda *args: jax.vjp(convolution.conv3x3, *args)[1](gradient))(x, kernel)
        want = jax.jit(lambda *args: jax.vjp(plain, *args)[1](gradient))(x, kernel)
        for ours, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5 * float(jnp.abs(theirs).max()))

    def test_second_derivative(self):
        x, kernel, gradient = operands((2, 8, 8, 8), 2)

        def along(conv):
            to_x = lambda x, kernel: jax.vjp(lambda x: conv(x, kernel), x)[1](gradient)[0]
            return jax.grad(lambda kernel: jnp.square(to_x(x, kernel)).sum())(kernel)

        got, want = along(convolution.conv3x3), along(plain)
        np.testing.assert_allclose(got, want, atol=1e-5 * float(jnp.abs(want).max()))

    def test_bfloat16_is_summed_in_float32(self):
        x, kernel, gradient = (t.astype(jnp.bfloat16) for t in operands((4, 16, 16, 8), 4))
        got = jax.vjp(convolution.conv3x3, x, kernel)[1](gradient)[1]
        self.assertEqual(got.dtype, jnp.bfloat16)
        exact = (t.astype(jnp.float32) for t in (x, kernel))
        want = jax.vjp(plain, *exact)[1](gradient.astype(jnp.float32))[1]
        error = jnp.abs(got.astype(jnp.float32) - want).max() / jnp.abs(want).max()
        self.assertLess(float(error), 2**-8)


if __name__ == "__main__":
    absltest.main()
