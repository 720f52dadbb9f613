"""3x3 and 3x3x3 convolutions, and gradients, that are fast on CPU as well.

Gains 1 to 1.9 times on CPU, and 11 within a loop (docs/performance.md, "Each layer"). Volumes have
the speed of images; a step of DTML is made of these (there, "DTML in three dimensions").
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from multimix_jax.ops import platform

Operands = tuple[jax.Array, jax.Array]

_FEW = 3  # channels that no convolution of a library is made for
_NARROW = 16  # features that fill a third of what Eigen multiplies at once
_PACKET = 8  # a multiple of so many channels is what Eigen pads within a convolution without delay
_SLICE_PADDING = ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0))


def conv3x3_reference(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """What `conv3x3` computes, as JAX spells it."""
    return convolve(x, kernel, (1,) * (x.ndim - 2), "SAME")


def convolve(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **to: Any) -> jax.Array:
    """`lax.conv_general_dilated` of images or volumes, channels last."""
    names = dimension_numbers(x)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=names, **to)


def dimension_numbers(x: jax.Array) -> tuple[str, str, str]:
    return ("NHWC", "HWIO", "NHWC") if x.ndim == 4 else ("NDHWC", "DHWIO", "NDHWC")


@jax.custom_vjp
def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution [B,(D,)H,W,C] * [(3,)3,3,C,K] -> [B,(D,)H,W,K], edges padded with zeros."""
    # On CPU volumes, few channels or features, and the kernel's gradient are spelled differently.
    cpu = conv3x3_reference
    if x.ndim == 5:
        cpu = _by_slices
    elif x.shape[-1] <= _FEW:
        cpu = _of_few_channels
    elif kernel.shape[-1] <= _FEW:
        cpu = _to_few_features
    elif kernel.shape[-1] <= _NARROW and x.shape[2] % 2 == 0:
        cpu = _in_pairs
    return platform.choose(x, kernel, cpu=cpu, default=conv3x3_reference)


def _backward(residuals: Operands, gradient: jax.Array) -> Operands:
    x, kernel = residuals
    # Spelled as a convolution forwards: XLA's own gradients are very slow on CPU within a loop.
    flipped = kernel[(slice(None, None, -1),) * (x.ndim - 2)]
    to_x = conv3x3(gradient, flipped.swapaxes(-2, -1))
    to_kernel = platform.choose(
        x,
        gradient,
        cpu=_kernel_gradient if x.ndim == 4 else _kernel_gradient_by_slices,
        default=lambda x, g: jax.vjp(lambda k: conv3x3_reference(x, k), kernel)[1](g)[0],
    )
    return to_x, to_kernel


conv3x3.defvjp(lambda x, kernel: (conv3x3(x, kernel), (x, kernel)), _backward)


def _in_pairs(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Two neighbouring pixels as one of twice the features: a third more work, better shaped."""
    batch, height, width, _ = x.shape
    one, other = (((0, 0), shift, (0, 0), (0, 0)) for shift in ((0, 1), (1, 0)))
    pair = jnp.concatenate([jnp.pad(kernel, one), jnp.pad(kernel, other)], axis=-1)
    y = convolve(x, pair, (1, 2), ((1, 1), (1, 1)))
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


def _to_few_features(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """All taps as one matrix product, then shifted and added: the results are the smaller part."""
    _, height, width, _ = x.shape
    taps = jnp.einsum("bhwc,ijck->bhwijk", x, kernel, preferred_element_type=jnp.float32)
    taps = jnp.pad(taps, ((0, 0), (1, 1), (1, 1), (0, 0), (0, 0), (0, 0)))
    shifted = [taps[:, i : i + height, j : j + width, i, j] for i, j in np.ndindex(3, 3)]
    return functools.reduce(jnp.add, shifted).astype(x.dtype)


def _by_slices(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """All three layers of the kernel on every slice, then shifted and added."""
    batch, depth, *sides, channels = x.shape
    if channels == 1:  # then the neighbours become channels, as one alone is slow
        flat = jnp.moveaxis(kernel, 0, 2).reshape(3, 3, 3, -1)
        return conv3x3(_with_neighbours(x), flat).reshape(*x.shape[:-1], -1)
    flat = jnp.moveaxis(kernel, 0, 3).reshape(3, 3, channels, -1)
    layers = conv3x3(_slices(jnp.pad(x, _SLICE_PADDING)), flat)
    layers = layers.reshape(batch, depth + 2, *sides, 3, -1)
    return functools.reduce(jnp.add, [layers[:, z : z + depth, ..., z, :] for z in range(3)])


def _slices(x: jax.Array) -> jax.Array:
    return x.reshape(-1, *x.shape[2:])


def _with_neighbours(x: jax.Array) -> jax.Array:
    """Slices [B*D,H,W,3C]: the one before, itself, the one after, zeros beyond the ends."""
    padded = jnp.pad(x, _SLICE_PADDING)
    return _slices(jnp.concatenate([padded[:, z : z + x.shape[1]] for z in range(3)], axis=-1))


def _kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """sum_{b,h,w} x[b,h+i-1,w+j-1,c] gradient[b,h,w,k] as [3,3,C,K], the narrower one first."""
    if x.shape[-1] > gradient.shape[-1]:
        return _correlate(gradient, x)[:, ::-1, ::-1].transpose(1, 2, 3, 0)
    return _correlate(x, gradient).transpose(1, 2, 0, 3)


def _kernel_gradient_by_slices(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """sum_{b,d,h,w} x[b,d+l-1,h+i-1,w+j-1,c] gradient[b,d,h,w,k] as [3,3,3,C,K]; the wider tensor
    takes its neighbours beside it, so that both are wide."""
    if x.shape[-1] >= gradient.shape[-1]:
        total = _correlate(_slices(gradient), _with_neighbours(x))[:, ::-1, ::-1]
        return total.reshape(*total.shape[:3], 3, -1).transpose(3, 1, 2, 4, 0)
    total = _correlate(_slices(x), _with_neighbours(gradient))
    return total.reshape(*total.shape[:3], 3, -1)[..., ::-1, :].transpose(3, 1, 2, 0, 4)


def _correlate(a: jax.Array, b: jax.Array) -> jax.Array:
    """sum_{n,h,w} a[n,h+i-1,w+j-1,c] b[n,h,w,k] as [C,3,3,K], rounded to `a`'s dtype at the end, by
    one convolution forwards: the channels of `a` are its batch, the images its channels, `b` its
    kernel, as large as an image."""
    padding = 1
    if a.shape[0] % _PACKET != 0:
        a, padding = jnp.pad(a, ((0, 0), (1, 1), (1, 1), (0, 0))), 0
    total = convolve(
        a.transpose(3, 1, 2, 0),
        b.transpose(1, 2, 0, 3),
        (1, 1),
        [(padding, padding)] * 2,
        preferred_element_type=jnp.float32,
    )
    return total.astype(a.dtype)
