"""3x3x3 convolutions by slices: volumes at the speed of images.

A step of DTML in three dimensions is made of these (docs/performance.md, "DTML in three
dimensions").
"""

import functools

import jax
import jax.numpy as jnp

from multimix_jax.ops import platform
from multimix_jax.ops.convolution import Operands, conv3x3, correlate

_SLICE_PADDING = ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0))


def conv3x3x3_reference(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """What `conv3x3x3` computes, as JAX spells it."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


@jax.custom_vjp
def conv3x3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution [B,D,H,W,C] * [3,3,3,C,K] -> [B,D,H,W,K], stride 1, edges padded with zeros.

    On CPU a convolution of slices.
    """
    return platform.choose(x, kernel, cpu=_by_slices, default=conv3x3x3_reference)


def _backward(residuals: Operands, gradient: jax.Array) -> Operands:
    x, kernel = residuals
    to_x = conv3x3x3(gradient, kernel[::-1, ::-1, ::-1].swapaxes(3, 4))
    to_kernel = platform.choose(
        x,
        gradient,
        cpu=_kernel_gradient,
        default=lambda x, g: jax.vjp(lambda k: conv3x3x3_reference(x, k), kernel)[1](g)[0],
    )
    return to_x, to_kernel


conv3x3x3.defvjp(lambda x, kernel: (conv3x3x3(x, kernel), (x, kernel)), _backward)


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


def _kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """sum_{b,d,h,w} x[b,d+l-1,h+i-1,w+j-1,c] gradient[b,d,h,w,k] as [3,3,3,C,K].

    The wider tensor is the one that takes its neighbours beside it, so that both are wide.
    """
    if x.shape[-1] >= gradient.shape[-1]:
        total = correlate(_slices(gradient), _with_neighbours(x))[:, ::-1, ::-1]
        return total.reshape(*total.shape[:3], 3, -1).transpose(3, 1, 2, 4, 0)
    total = correlate(_slices(x), _with_neighbours(gradient))
    return total.reshape(*total.shape[:3], 3, -1)[..., ::-1, :].transpose(3, 1, 2, 0, 4)


def _slices(x: jax.Array) -> jax.Array:
    return x.reshape(-1, *x.shape[2:])


def _with_neighbours(x: jax.Array) -> jax.Array:
    """Slices [B*D,H,W,3C]: the one before, itself, the one after, zeros beyond the ends."""
    padded = jnp.pad(x, _SLICE_PADDING)
    return _slices(jnp.concatenate([padded[:, z : z + x.shape[1]] for z in range(3)], axis=-1))
