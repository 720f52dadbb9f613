"""3x3 convolutions that are fast on CPU as well, with their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from multimix_jax.models.interpolation import double_aligned, double_taps, double_taps_transposed

Operands = tuple[jax.Array, jax.Array]

_FEW = 3  # channels that no convolution of a library is made for
_NARROW = 16  # features that fill a third of what Eigen multiplies at once
_PACKET = 8  # a multiple of so many channels is what Eigen pads within a convolution without delay


@jax.custom_vjp
def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution [B,H,W,C] * [3,3,C,K] -> [B,H,W,K], stride 1, edges padded with zeros.

    The numbers of `jax.lax.conv_general_dilated`, and its gradients, up to rounding. On CPU few
    channels, and the kernel's gradient, are taken another way (measured: docs/performance.md).
    """
    cpu = _plain
    if x.shape[-1] <= _FEW:
        cpu = _of_few_channels
    elif kernel.shape[-1] <= _FEW:
        cpu = _to_few_channels
    elif kernel.shape[-1] <= _NARROW and x.shape[2] % 2 == 0:
        cpu = _in_pairs
    return jax.lax.platform_dependent(x, kernel, cpu=cpu, default=_plain)


_convolve = functools.partial(
    jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC")
)


def _plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _convolve(x, kernel, (1, 1), "SAME")


def _in_pairs(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Two neighbouring pixels as one of twice the features: a third more work, better shaped."""
    batch, height, width, _ = x.shape
    one, other = (((0, 0), shift, (0, 0), (0, 0)) for shift in ((0, 1), (1, 0)))
    pair = jnp.concatenate([jnp.pad(kernel, one), jnp.pad(kernel, other)], axis=-1)
    y = _convolve(x, pair, (1, 2), ((1, 1), (1, 1)))
    return y.reshape(batch, height, width, -1)


def _of_few_channels(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Tap by tap, each a multiplication and an addition: one pass over the result."""
    _, height, width, channels = x.shape
    x = jnp.pad(x.astype(jnp.float32), ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [
        x[:, i : i + height, j : j + width, c : c + 1] * kernel[i, j, c][None, None, None]
        for i, j, c in np.ndindex(3, 3, channels)
    ]
    return functools.reduce(jnp.add, taps).astype(kernel.dtype)


def _to_few_channels(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """All taps as one matrix product, then shifted and added: the results are the smaller part."""
    _, height, width, _ = x.shape
    taps = jnp.einsum("bhwc,ijck->bhwijk", x, kernel, preferred_element_type=jnp.float32)
    taps = jnp.pad(taps, ((0, 0), (1, 1), (1, 1), (0, 0), (0, 0), (0, 0)))
    shifted = [taps[:, i : i + height, j : j + width, i, j] for i, j in np.ndindex(3, 3)]
    return functools.reduce(jnp.add, shifted).astype(x.dtype)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Operands]:
    return conv3x3(x, kernel), (x, kernel)


def _backward(residuals: Operands, gradient: jax.Array) -> Operands:
    x, kernel = residuals
    # Spelled as a convolution forwards: XLA's own gradients are very slow on CPU within a loop.
    to_x = conv3x3(gradient, kernel[::-1, ::-1].swapaxes(2, 3))
    to_kernel = jax.lax.platform_dependent(
        x,
        gradient,
        cpu=_kernel_gradient,
        default=lambda x, gradient: jax.vjp(lambda k: _plain(x, k), kernel)[1](gradient)[0],
    )
    return to_x, to_kernel


conv3x3.defvjp(_forward, _backward)


def _kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """sum_{b,h,w} x[b,h+i-1,w+j-1,c] gradient[b,h,w,k] as [3,3,C,K].

    One convolution forwards: the channels of the narrower tensor are its batch, the images its
    channels, and the other tensor is its kernel, as large as an image.
    """
    if x.shape[-1] > gradient.shape[-1]:
        return _correlate(gradient, x)[:, ::-1, ::-1].transpose(1, 2, 3, 0)
    return _correlate(x, gradient).transpose(1, 2, 0, 3)


def _correlate(a: jax.Array, b: jax.Array) -> jax.Array:
    """sum_{n,h,w} a[n,h+i-1,w+j-1,c] b[n,h,w,k] as [C,3,3,K], rounded to `a`'s dtype at the end."""
    padding = 1
    if len(a) % _PACKET:
        a, padding = jnp.pad(a, ((0, 0), (1, 1), (1, 1), (0, 0))), 0
    total = _convolve(
        a.transpose(3, 1, 2, 0),
        b.transpose(1, 2, 0, 3),
        (1, 1),
        [(padding, padding)] * 2,
        preferred_element_type=jnp.float32,
    )
    return total.astype(a.dtype)


@jax.custom_vjp
def conv3x3_doubled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv3x3(double_aligned(x), kernel)`: [B,H,W,C] * [3,3,C,K] -> [B,2H,2W,K], up to rounding.

    Both are linear, so on CPU the kernel comes first: nine 1x1 products on a quarter of the pixels,
    and then an interpolation that shifts as well.
    """
    return jax.lax.platform_dependent(x, kernel, cpu=_taps_then_double, default=_double_then_conv)


def _doubled_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Operands]:
    return conv3x3_doubled(x, kernel), (x, kernel)


def _doubled_backward(residuals: Operands, gradient: jax.Array) -> Operands:
    return jax.lax.platform_dependent(
        *residuals,
        gradient,
        cpu=_taps_then_double_backward,
        default=lambda x, kernel, gradient: jax.vjp(_double_then_conv, x, kernel)[1](gradient),
    )


conv3x3_doubled.defvjp(_doubled_forward, _doubled_backward)


def _double_then_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return conv3x3(double_aligned(x), kernel)


def _taps_then_double(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # Matrices throughout: products of more axes make XLA turn the large taps round.
    pixels = x.reshape(-1, x.shape[-1])
    taps = jnp.matmul(pixels, _by_tap(kernel), preferred_element_type=jnp.float32)
    taps = taps.reshape(*x.shape[:-1], 3, 3, -1)
    return double_taps(double_taps(taps, axis=2), axis=1).astype(x.dtype)


def _taps_then_double_backward(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> Operands:
    taps = double_taps_transposed(gradient.astype(jnp.float32), axis=1)
    taps = double_taps_transposed(taps, axis=2).astype(x.dtype)
    pixels, taps = x.reshape(-1, x.shape[-1]), taps.reshape(-1, 9 * taps.shape[-1])
    to_x = jnp.matmul(taps, _by_tap(kernel).T).reshape(x.shape)
    to_kernel = jnp.matmul(pixels.T, taps, preferred_element_type=jnp.float32)
    return to_x, jax.linear_transpose(_by_tap, kernel)(to_kernel.astype(kernel.dtype))[0]


def _by_tap(kernel: jax.Array) -> jax.Array:
    """[3,3,C,K] -> [C,9K], a column's taps before a row's, as columns are doubled first."""
    return kernel.transpose(2, 1, 0, 3).reshape(kernel.shape[2], -1)
