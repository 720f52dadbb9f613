"""3x3 convolutions that are fast on CPU as well, with their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from multimix_jax.models.interpolation import aligned_weights, double_aligned

Operands = tuple[jax.Array, jax.Array]

_FEW = 3  # channels that no convolution of a library is made for
_SUMMANDS = 8  # what the innermost loop of the filter gradient adds, at least, if it can


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
    return jax.lax.platform_dependent(x, kernel, cpu=cpu, default=_plain)


def _plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


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
    # Few images are cut into strips: the innermost loop runs over what is summed first.
    strips = 1
    while len(a) * strips < _SUMMANDS and a.shape[1] % (8 * strips) == 0:
        strips *= 2
    padding = ((1, 1), (1, 1))
    if strips > 1:
        height = a.shape[1] // strips
        a = jnp.pad(a, ((0, 0), (1, 1), (0, 0), (0, 0)))
        a = jnp.concatenate([a[:, i * height : (i + 1) * height + 2] for i in range(strips)])
        b = jnp.concatenate([b[:, i * height : (i + 1) * height] for i in range(strips)])
        padding = ((0, 0), (1, 1))
    total = jax.lax.conv_general_dilated(
        a.transpose(3, 1, 2, 0),
        b.transpose(1, 2, 0, 3),
        (1, 1),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=jnp.float32,
    )
    return total.astype(a.dtype)


@jax.custom_vjp
def conv3x3_doubled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv3x3(double_aligned(x), kernel)`: [B,H,W,C] * [3,3,C,K] -> [B,2H,2W,K], up to rounding.

    Both are linear, so on CPU the kernel comes first where that is less work: nine 1x1 products on
    a quarter of the pixels, and then one interpolation that shifts as well.
    """
    return jax.lax.platform_dependent(x, kernel, cpu=_taps_then_double, default=_double_then_conv)


def _doubled_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Operands]:
    return conv3x3_doubled(x, kernel), (x, kernel)


def _doubled_backward(residuals: Operands, gradient: jax.Array) -> Operands:
    # Chosen here again: the gradient of a choice would carry what either side needs.
    cpu, default = (
        lambda x, kernel, gradient, f=f: jax.vjp(f, x, kernel)[1](gradient)
        for f in (_taps_then_double, _double_then_conv)
    )
    return jax.lax.platform_dependent(*residuals, gradient, cpu=cpu, default=default)


conv3x3_doubled.defvjp(_doubled_forward, _doubled_backward)


def _double_then_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return conv3x3(double_aligned(x), kernel)


def _taps_then_double(x: jax.Array, kernel: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    if height + width > 4 * channels:  # the interpolation would be the larger part (measured)
        return _double_then_conv(x, kernel)
    features = kernel.shape[-1]
    by_pixel = kernel.transpose(2, 1, 0, 3).reshape(channels, 9 * features)
    taps = jnp.matmul(x.reshape(-1, channels), by_pixel, preferred_element_type=jnp.float32)
    taps = taps.reshape(batch, height, width, 3, 3, features)
    taps = jnp.einsum("oWj,bhWjik->bhoik", _doubled_and_shifted(width), taps)
    return jnp.einsum("phi,bhoik->bpok", _doubled_and_shifted(height), taps).astype(x.dtype)


def _doubled_and_shifted(size: int) -> jax.Array:
    """Weights [2 size, size, 3]: output o takes what aligned doubling has at o + tap - 1."""
    doubled = np.pad(aligned_weights(size, 2 * size), ((1, 1), (0, 0)))
    return jnp.asarray(np.stack([doubled[tap : tap + 2 * size] for tap in range(3)], axis=-1))
