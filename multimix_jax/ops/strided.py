"""Convolutions of stride 2 as matrix products, in two and three dimensions.

XLA computes transposed convolutions slowly, and their gradients more so; a step of DTML has both
between its levels (docs/performance.md, "DTML in three dimensions").
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from multimix_jax.ops.convolution import Operands, convolve, dimension_numbers


def conv_halving_reference(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """What `conv_halving` computes, as JAX spells it."""
    return convolve(x, kernel, (2,) * (x.ndim - 2), "VALID")


def conv_doubling_reference(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """What `conv_doubling` computes, as JAX spells it."""
    strides, names = (2,) * (x.ndim - 2), dimension_numbers(x)
    kernel = jnp.flip(kernel, range(x.ndim - 2))
    return jax.lax.conv_transpose(x, kernel, strides, "VALID", dimension_numbers=names)


@jax.custom_vjp
def conv_halving(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution of stride 2, [B,(D,)H,W,C] * [2,2(,2),C,K] -> [B,(D/2,)H/2,W/2,K]."""
    # Matrix products, since no pixel is read twice: rows of pairs of pixels, corner by corner.
    products = [
        jnp.matmul(corner, kernel[at].reshape(-1, kernel.shape[-1]))
        for at, corner in _corners(x).items()
    ]
    return functools.reduce(jnp.add, products)


@jax.custom_vjp
def conv_doubling(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution of stride 2, [B,(D,)H,W,C] * [2,2(,2),C,K] -> [B,(2D,)2H,2W,K]: pixel
    2i + a of the result is pixel i times `kernel[a]`."""
    batch, *sides, channels = x.shape
    outer = len(sides) - 1
    pairs = {
        at: jnp.matmul(x, jnp.moveaxis(kernel[at], 0, 1).reshape(channels, -1))
        for at in np.ndindex(*[2] * outer)
    }
    for axis in reversed(range(outer)):
        pairs = {
            at: jnp.stack([pairs[*at, 0], pairs[*at, 1]], axis=axis + 2)
            for at in np.ndindex(*[2] * axis)
        }
    return pairs[()].reshape(batch, *(2 * side for side in sides), -1)


def _corners(x: jax.Array) -> dict[tuple[int, ...], jax.Array]:
    """[B,(D,)H,W,C] -> [B,(D/2,)H/2,W/2,2C] of every other row (and slice), by where it begins."""
    batch, *sides, channels = x.shape
    outer = [n for side in sides[:-1] for n in (side // 2, 2)]
    rows = x.reshape(batch, *outer, sides[-1] // 2, 2 * channels)
    every = slice(None)
    return {
        at: rows[(every, *(index for start in at for index in (every, start)))]
        for at in np.ndindex(*[2] * (len(sides) - 1))
    }


def _halving_backward(residuals: Operands, gradient: jax.Array) -> Operands:
    x, kernel = residuals
    return conv_doubling(gradient, kernel.swapaxes(-1, -2)), _kernel_of_pairs(x, gradient, kernel)


def _doubling_backward(residuals: Operands, gradient: jax.Array) -> Operands:
    x, kernel = residuals
    transposed = kernel.swapaxes(-1, -2)
    to_kernel = _kernel_of_pairs(gradient, x, transposed)
    return conv_halving(gradient, transposed), to_kernel.swapaxes(-1, -2)


def _kernel_of_pairs(large: jax.Array, small: jax.Array, kernel: jax.Array) -> jax.Array:
    """Gradient of the kernel [2,2(,2),C,K] between [..,2H,2W,C] and [..,H,W,K]."""
    small = small.reshape(-1, small.shape[-1])
    products = [
        jnp.matmul(
            corner.reshape(len(small), -1).T, small, preferred_element_type=jnp.float32
        ).astype(kernel.dtype)
        for corner in _corners(large).values()
    ]
    return jnp.stack(products).reshape(kernel.shape)


conv_halving.defvjp(lambda x, kernel: (conv_halving(x, kernel), (x, kernel)), _halving_backward)
conv_doubling.defvjp(lambda x, kernel: (conv_doubling(x, kernel), (x, kernel)), _doubling_backward)
