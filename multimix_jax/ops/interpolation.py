"""Bilinear interpolation with aligned corners, as the published network has it.

`jax.image.resize` knows half-pixel centres only. Doubling fused with the convolution behind it
gains 1.8 to 3.1 times on CPU (docs/performance.md, "Each layer").
"""

import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from multimix_jax.ops import platform
from multimix_jax.ops.convolution import Operands, conv3x3, conv3x3_reference


def aligned_weights(source: int, target: int) -> np.ndarray:
    """Matrix [target, source] of linear interpolation with aligned corners along one axis."""
    position = np.linspace(0.0, source - 1.0, target)
    low = np.clip(np.floor(position).astype(int), 0, max(source - 2, 0))
    fraction = position - low
    weights = np.zeros((target, source), np.float32)
    weights[np.arange(target), low] += 1.0 - fraction
    weights[np.arange(target), np.minimum(low + 1, source - 1)] += fraction
    return weights


def resize_aligned(x: jax.Array, height: int, width: int) -> jax.Array:
    """Bilinear interpolation [B,H,W,C] -> [B,height,width,C] with aligned corners: two small matrix
    products, without antialiasing."""
    rows = jnp.asarray(aligned_weights(x.shape[1], height), x.dtype)
    columns = jnp.asarray(aligned_weights(x.shape[2], width), x.dtype)
    x = jnp.einsum("hH,bHwc->bhwc", rows, x)
    return jnp.einsum("wW,bhWc->bhwc", columns, x)


def double_aligned(x: jax.Array) -> jax.Array:
    """Bilinear doubling [B,H,W,C] -> [B,2H,2W,C] with aligned corners, like `resize_aligned`, but
    each output is taken from two neighbours, which is less work."""
    return _double(_double(x, 1), 2)


def _double(x: jax.Array, axis: int) -> jax.Array:
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


def conv3x3_doubled_reference(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """What `conv3x3_doubled` computes, step by step."""
    doubled = resize_aligned(x, 2 * x.shape[1], 2 * x.shape[2])
    return conv3x3_reference(doubled, kernel)


@jax.custom_vjp
def conv3x3_doubled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv3x3` of `double_aligned`: [B,H,W,C] * [3,3,C,K] -> [B,2H,2W,K].

    Both are linear, so on CPU the kernel comes first: nine 1x1 products on a quarter of the pixels,
    and then an interpolation that shifts as well.
    """
    return platform.choose(x, kernel, cpu=_taps_then_double, default=_double_then_conv)


def _doubled_backward(residuals: Operands, gradient: jax.Array) -> Operands:
    return platform.choose(
        *residuals,
        gradient,
        cpu=_taps_then_double_backward,
        default=lambda x, kernel, gradient: jax.vjp(_double_then_conv, x, kernel)[1](gradient),
    )


conv3x3_doubled.defvjp(
    lambda x, kernel: (conv3x3_doubled(x, kernel), (x, kernel)), _doubled_backward
)


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


def double_taps(taps: jax.Array, axis: int) -> jax.Array:
    """Aligned doubling along `axis` (1 or 2) and, in the same pass, the sum over a kernel's taps.

    `taps` [B,H,W,3,...] is what tap t of a kernel that reaches along `axis`, with offset t - 1,
    makes of each input. The result lacks its axis 3, and is twice as large along `axis`: output o
    is the sum over t of what doubling tap t gives at o + t - 1, zero beyond the edges.
    """
    parts = [jax.lax.index_in_dim(taps, tap, axis=3, keepdims=False) for tap in range(3)]
    sides = [jnp.zeros((), taps.dtype)] * 2
    for side, tap, shift, weights in _tap_terms(taps.shape[axis]):
        part = parts[tap]
        sides[side] += _along(weights, axis, part) * _shifted(part, shift, axis)
    return _interleave(sides, axis)


def double_taps_transposed(gradient: jax.Array, axis: int) -> jax.Array:
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
    """What `double_taps` adds: (side, tap, shift, weights [size]); output 2i + side takes input
    i + shift of that tap, times weights[i]."""
    doubled = np.pad(aligned_weights(size, 2 * size), ((1, 1), (0, 0)))
    for side, tap, shift in itertools.product((0, 1), (0, 1, 2), (-1, 0, 1)):
        diagonal = np.diagonal(doubled[tap : tap + 2 * size][side::2], shift)
        if diagonal.any():
            yield side, tap, shift, np.pad(diagonal, (max(-shift, 0), max(shift, 0)))


def _along(values: np.ndarray, axis: int, like: jax.Array) -> jax.Array:
    """`values` along `axis`, to be multiplied with `like`."""
    shape = [1] * like.ndim
    shape[axis] = len(values)
    return jnp.asarray(values.reshape(shape), like.dtype)


def _shifted(x: jax.Array, shift: int, axis: int) -> jax.Array:
    """x[i + shift] along `axis`, zero beyond the edges."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = (max(-shift, 0), max(shift, 0))
    start = max(shift, 0)
    return jax.lax.slice_in_dim(jnp.pad(x, padding), start, start + x.shape[axis], axis=axis)


def _interleave(sides: Sequence[jax.Array], axis: int) -> jax.Array:
    """Two arrays by turns along `axis`."""
    shape = list(sides[0].shape)
    shape[axis] *= 2
    return jnp.stack(sides, axis + 1).reshape(shape)
