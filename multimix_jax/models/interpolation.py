"""Bilinear interpolation with aligned corners, as the published network has it.

Shapes: `B` images, `H` x `W` pixels, `C` channels.
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def aligned_weights(source: int, target: int) -> np.ndarray:
    """Matrix [target, source] of linear interpolation with aligned corners along one axis."""
    position = np.linspace(0.0, source - 1.0, target)
    low = np.clip(np.floor(position).astype(int), 0, max(source - 2, 0))
    fraction = position - low
    weights = np.zeros((target, source), np.float32)
    weights[np.arange(target), low] += 1.0 - fraction
    weights[np.arange(target), np.minimum(low + 1, source - 1)] += fraction
    return weights


def resize_aligned(x: Array, height: int, width: int) -> Array:
    """Bilinear interpolation [B,H,W,C] -> [B,height,width,C] with aligned corners.

    No antialiasing. `jax.image.resize` knows half-pixel centres only; two small matrix products are
    exact and fast.
    """
    rows = jnp.asarray(aligned_weights(x.shape[1], height), x.dtype)
    columns = jnp.asarray(aligned_weights(x.shape[2], width), x.dtype)
    x = jnp.einsum("hH,bHwc->bhwc", rows, x)
    return jnp.einsum("wW,bhWc->bhwc", columns, x)


def double_aligned(x: Array) -> Array:
    """Bilinear doubling [B,H,W,C] -> [B,2H,2W,C] with aligned corners.

    As `resize_aligned`, but each output is taken from two neighbours, which is less work.
    """
    return _double(_double(x, 1), 2)


def _double(x: Array, axis: int) -> Array:
    """Output 2i lies i / (2n - 1) before input i, output 2i + 1 (n - 1 - i) / (2n - 1) behind."""
    size = x.shape[axis]
    along = [1] * x.ndim
    along[axis] = size
    before = np.arange(size) / (2 * size - 1)
    back, ahead = (jnp.asarray(part.reshape(along), x.dtype) for part in (before, before[::-1]))
    part = lambda start, stop: jax.lax.slice_in_dim(x, start, stop, axis=axis)
    previous = jnp.concatenate([part(0, 1), part(0, size - 1)], axis)
    following = jnp.concatenate([part(1, size), part(size - 1, size)], axis)
    even = x + back * (previous - x)
    odd = x + ahead * (following - x)
    shape = list(x.shape)
    shape[axis] *= 2
    return jnp.stack([even, odd], axis + 1).reshape(shape)
