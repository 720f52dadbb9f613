"""Bilinear interpolation with aligned corners, as the published network has it.

Shapes: `B` images, `H` x `W` pixels, `C` channels.
"""

import itertools
from collections.abc import Iterator, Sequence

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
    before = np.arange(size) / (2 * size - 1)
    back, ahead = _along(before, axis, x), _along(before[::-1], axis, x)
    part = lambda start, stop: jax.lax.slice_in_dim(x, start, stop, axis=axis)
    previous = jnp.concatenate([part(0, 1), part(0, size - 1)], axis)
    following = jnp.concatenate([part(1, size), part(size - 1, size)], axis)
    even = x + back * (previous - x)
    odd = x + ahead * (following - x)
    return _interleave([even, odd], axis)


def double_taps(taps: Array, axis: int) -> Array:
    """Aligned doubling along `axis` (1 or 2) and, in the same pass, the sum over a kernel's taps.

    Args:
      taps: [B,H,W,3,...]: what tap t of a kernel, whose offset is t - 1, makes of each input.
      axis: along which the kernel reaches.

    Returns:
      `taps` without its axis 3, and twice as large along `axis`: output o is the sum over t of what
      doubling tap t gives at o + t - 1, zero beyond the edges.
    """
    parts = [jax.lax.index_in_dim(taps, tap, axis=3, keepdims=False) for tap in range(3)]
    sides = [jnp.zeros((), taps.dtype)] * 2
    for side, tap, shift, weights in _tap_terms(taps.shape[axis]):
        part = parts[tap]
        sides[side] += _along(weights, axis, part) * _shifted(part, shift, axis)
    return _interleave(sides, axis)


def double_taps_transposed(gradient: Array, axis: int) -> Array:
    """The gradient to `taps` of `double_taps`, given that to its result."""
    size = gradient.shape[axis] // 2
    split = gradient.reshape(*gradient.shape[:axis], size, 2, *gradient.shape[axis + 1 :])
    sides = [jax.lax.index_in_dim(split, side, axis + 1, keepdims=False) for side in range(2)]
    parts = [jnp.zeros((), gradient.dtype)] * 3
    for side, tap, shift, weights in _tap_terms(size):
        part = sides[side]
        # Rolled, as the weights where the input would lie beyond an edge are zero.
        rolled = _along(np.roll(weights, shift), axis, part)
        parts[tap] += rolled * _shifted(part, -shift, axis)
    return jnp.stack(parts, axis=3)


def _tap_terms(size: int) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """What `double_taps` adds: (side, tap, shift, weights [size]).

    Output 2i + side takes input i + shift of that tap, times weights[i].
    """
    doubled = np.pad(aligned_weights(size, 2 * size), ((1, 1), (0, 0)))
    for side, tap, shift in itertools.product((0, 1), (0, 1, 2), (-1, 0, 1)):
        diagonal = np.diagonal(doubled[tap : tap + 2 * size][side::2], shift)
        if diagonal.any():
            yield side, tap, shift, np.pad(diagonal, (max(-shift, 0), max(shift, 0)))


def _along(values: np.ndarray, axis: int, like: Array) -> Array:
    """`values` along `axis`, to be multiplied with `like`."""
    shape = [1] * like.ndim
    shape[axis] = len(values)
    return jnp.asarray(values.reshape(shape), like.dtype)


def _shifted(x: Array, shift: int, axis: int) -> Array:
    """x[i + shift] along `axis`, zero beyond the edges."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = (max(-shift, 0), max(shift, 0))
    start = max(shift, 0)
    return jax.lax.slice_in_dim(jnp.pad(x, padding), start, start + x.shape[axis], axis=axis)


def _interleave(sides: Sequence[Array], axis: int) -> Array:
    """Two arrays by turns along `axis`."""
    shape = list(sides[0].shape)
    shape[axis] *= 2
    return jnp.stack(sides, axis + 1).reshape(shape)
