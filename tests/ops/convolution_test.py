import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from scipy import ndimage

from multimix_jax.ops import convolution, interpolation

# Few channels and many, on either side; odd and even widths; images by eights, and others.
SHAPES = [
    ((4, 8, 6, 1), 5),
    ((8, 5, 7, 3), 4),
    ((8, 5, 7, 5), 2),
    ((2, 32, 4, 4), 4),
    ((1, 16, 8, 10), 5),
    ((5, 2, 3, 4), 9),
]


def operands(shape, features):
    return normal(shape, (3, 3, shape[-1], features), (*shape[:-1], features))


def normal(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def plain(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def gradients(conv, x, kernel, gradient):
    return jax.jit(lambda *args: jax.vjp(conv, *args)[1](gradient))(x, kernel)


def assert_near(got, want):
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


class Conv3x3Test(parameterized.TestCase):
    @parameterized.parameters((3, 4, 5), (5, 4, 5), (5, 4, 6), (4, 17, 6), (4, 1, 5))
    def test_equals_scipy(self, channels, features, width):
        operand = operands((2, 7, width, channels), features)
        x, kernel, _ = (np.asarray(t, np.float64) for t in operand)
        want = np.zeros((2, 7, width, features))
        for b, c, k in np.ndindex(2, channels, features):
            tap = kernel[:, :, c, k]
            want[b, :, :, k] += ndimage.correlate(x[b, :, :, c], tap, mode="constant")
        got = jax.jit(convolution.conv3x3)(*operand[:2])
        np.testing.assert_allclose(got, want, atol=1e-4)

    @parameterized.parameters(*SHAPES)
    def test_gradients_equal_those_of_lax(self, shape, features):
        x, kernel, gradient = operands(shape, features)
        got = gradients(convolution.conv3x3, x, kernel, gradient)
        for ours, theirs in zip(got, gradients(plain, x, kernel, gradient), strict=True):
            assert_near(ours, theirs)

    @parameterized.parameters((1, 4), (4, 4), (8, 2))
    def test_second_derivative(self, channels, features):
        x, kernel, gradient = operands((2, 8, 8, channels), features)

        def along(conv):
            to_x = lambda x, kernel: jax.vjp(lambda x: conv(x, kernel), x)[1](gradient)[0]
            return jax.jit(jax.grad(lambda kernel: jnp.square(to_x(x, kernel)).sum()))(kernel)

        got, want = along(convolution.conv3x3), along(plain)
        assert_near(got, want)

    def test_bfloat16_is_summed_in_float32(self):
        rounded = [t.astype(jnp.bfloat16) for t in operands((4, 16, 16, 8), 4)]
        got = gradients(convolution.conv3x3, *rounded)[1]
        self.assertEqual(got.dtype, jnp.bfloat16)
        want = gradients(plain, *(t.astype(np.float32) for t in rounded))[1]
        error = np.abs(np.asarray(got, np.float32) - want).max() / np.abs(want).max()
        self.assertLess(error, 2**-8)


def plain_of_volumes(x, kernel, stride=1):
    padding = "SAME" if stride == 1 else "VALID"
    return jax.lax.conv_general_dilated(
        x, kernel, (stride,) * 3, padding, dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


class VolumeTest(parameterized.TestCase):
    @parameterized.parameters(((2, 3, 5, 4, 1), 4), ((1, 4, 6, 5, 6), 2), ((2, 1, 4, 6, 5), 8))
    def test_value_and_gradients_equal_those_of_lax(self, shape, features):
        x, kernel, gradient = normal(shape, (3, 3, 3, shape[-1], features), (*shape[:-1], features))
        conv = jax.jit(convolution.conv3x3x3)
        assert_near(conv(x, kernel), jax.jit(plain_of_volumes)(x, kernel))
        got = gradients(convolution.conv3x3x3, x, kernel, gradient)
        for ours, theirs in zip(got, gradients(plain_of_volumes, x, kernel, gradient), strict=True):
            assert_near(ours, theirs)


class StridedTest(parameterized.TestCase):
    @parameterized.parameters(((2, 6, 4, 3),), ((2, 4, 6, 8, 3),))
    def test_halving_equals_lax(self, shape):
        dims = len(shape) - 2
        x, kernel = normal(shape, (*[2] * dims, 3, 5))
        names = ("NHWC", "HWIO", "NHWC") if dims == 2 else ("NDHWC", "DHWIO", "NDHWC")
        want = jax.lax.conv_general_dilated(
            x, kernel, (2,) * dims, "VALID", dimension_numbers=names
        )
        assert_near(jax.jit(convolution.conv_halving)(x, kernel), want)

    @parameterized.product(shape=[(2, 4, 6, 3), (2, 4, 2, 6, 3)], doubling=[False, True])
    def test_gradients(self, shape, doubling):
        """Those that JAX finds of the same, spelled pixel by pixel."""
        dims = len(shape) - 2
        x, kernel = normal(shape, (*[2] * dims, 3, 5))
        names = ("NHWC", "HWIO", "NHWC") if dims == 2 else ("NDHWC", "DHWIO", "NDHWC")
        lax = {
            False: lambda x, kernel: jax.lax.conv_general_dilated(
                x, kernel, (2,) * dims, "VALID", dimension_numbers=names
            ),
            True: lambda x, kernel: jax.lax.conv_transpose(
                x, jnp.flip(kernel, range(dims)), (2,) * dims, "VALID", dimension_numbers=names
            ),
        }[doubling]
        ours = convolution.conv_doubling if doubling else convolution.conv_halving
        gradient = normal(jax.eval_shape(ours, x, kernel).shape)[0]
        got = gradients(ours, x, kernel, gradient)
        for mine, other in zip(got, gradients(lax, x, kernel, gradient), strict=True):
            assert_near(mine, other)

    @parameterized.parameters(((2, 3, 4, 3),), ((2, 2, 3, 4, 3),))
    def test_doubling_pixel_by_pixel(self, shape):
        dims = len(shape) - 2
        x, kernel = normal(shape, (*[2] * dims, 3, 5))
        got = np.asarray(jax.jit(convolution.conv_doubling)(x, kernel))
        for at in np.ndindex(*got.shape[1:-1]):
            tap = kernel[tuple(place % 2 for place in at)]
            want = x[(slice(None), *(place // 2 for place in at))] @ tap
            np.testing.assert_allclose(got[(slice(None), *at)], want, atol=1e-4)


class Conv3x3DoubledTest(parameterized.TestCase):
    @parameterized.parameters(((2, 3, 5, 4), 3), ((2, 8, 6, 2), 3), ((1, 1, 1, 2), 2))
    def test_equals_doubling_then_convolution(self, shape, features):
        doubled = (shape[0], 2 * shape[1], 2 * shape[2], features)
        x, kernel, gradient = normal(shape, (3, 3, shape[-1], features), doubled)
        separate = lambda x, kernel: plain(interpolation.double_aligned(x), kernel)
        assert_near(jax.jit(convolution.conv3x3_doubled)(x, kernel), jax.jit(separate)(x, kernel))
        got = gradients(convolution.conv3x3_doubled, x, kernel, gradient)
        for ours, theirs in zip(got, gradients(separate, x, kernel, gradient), strict=True):
            assert_near(ours, theirs)


if __name__ == "__main__":
    absltest.main()
