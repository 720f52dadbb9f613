import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from multimix_jax.ops.convolution import conv3x3, conv3x3_reference
from tests.ops.oracles import assert_equals_reference, gradients, normal
from tests.tiny import assert_near


@pytest.mark.parametrize(
    ("channels", "features", "width"), [(3, 4, 5), (5, 4, 5), (5, 4, 6), (4, 17, 6), (4, 1, 5)]
)
def test_equals_scipy(channels, features, width):
    operands = normal((2, 7, width, channels), (3, 3, channels, features))
    x, kernel = (np.asarray(t, np.float64) for t in operands)
    want = np.zeros((2, 7, width, features))
    for b, c, k in np.ndindex(2, channels, features):
        tap = kernel[:, :, c, k]
        want[b, :, :, k] += ndimage.correlate(x[b, :, :, c], tap, mode="constant")
    np.testing.assert_allclose(jax.jit(conv3x3)(*operands), want, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "features"),
    [  # few channels and many, on either side; odd and even widths; images by eights, and others
        ((4, 8, 6, 1), 5),
        ((8, 5, 7, 3), 4),
        ((8, 5, 7, 5), 2),
        ((2, 32, 4, 4), 4),
        ((1, 16, 8, 10), 5),
        ((5, 2, 3, 4), 9),
    ],
)
def test_equals_reference(shape, features):
    operands = normal(shape, (3, 3, shape[-1], features))
    assert_equals_reference(conv3x3, conv3x3_reference, *operands)


@pytest.mark.parametrize(("channels", "features"), [(1, 4), (4, 4), (8, 2)])
def test_second_derivative(channels, features):
    x, kernel, gradient = normal(
        (2, 8, 8, channels), (3, 3, channels, features), (2, 8, 8, features)
    )

    def along(conv):
        to_x = lambda x, kernel: jax.vjp(lambda x: conv(x, kernel), x)[1](gradient)[0]
        return jax.jit(jax.grad(lambda kernel: jnp.square(to_x(x, kernel)).sum()))(kernel)

    assert_near(along(conv3x3), along(conv3x3_reference), tolerance=1e-5)


def test_bfloat16_is_summed_in_float32():
    operands = normal((4, 16, 16, 8), (3, 3, 8, 4), (4, 16, 16, 4))
    x, kernel, gradient = (t.astype(jnp.bfloat16) for t in operands)
    got = gradients(conv3x3, gradient, x, kernel)[1]
    assert got.dtype == jnp.bfloat16
    x, kernel, gradient = (t.astype(np.float32) for t in (x, kernel, gradient))
    want = gradients(conv3x3_reference, gradient, x, kernel)[1]
    error = np.abs(np.asarray(got, np.float32) - want).max() / np.abs(want).max()
    assert error < 2**-8


@pytest.mark.parametrize(
    ("shape", "features"), [((2, 3, 5, 4, 1), 4), ((1, 4, 6, 5, 6), 2), ((2, 1, 4, 6, 5), 8)]
)
def test_of_volumes_equals_reference(shape, features):
    operands = normal(shape, (3, 3, 3, shape[-1], features))
    assert_equals_reference(conv3x3, conv3x3_reference, *operands)
