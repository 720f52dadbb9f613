"""Convolutions that are fast on CPU as well, with their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from multimix_jax.ops.interpolation import double_aligned, double_taps, double_taps_transposed

Operands = tuple[jax.Array, jax.Array]

_FEW = 3  # channels that no convolution of a library is made for
_NARROW = 16  # features that fill a third of what Eigen multiplies at once
_BESIDE = ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0))  # padding of a volume's first axis
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
    if a.shape[0] % _PACKET != 0:
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
def conv3x3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution [B,D,H,W,C] * [3,3,3,C,K] -> [B,D,H,W,K], stride 1, edges padded with zeros.

    As `conv3x3` for volumes: on CPU a convolution of slices, each with its neighbours as channels.
    """
    return jax.lax.platform_dependent(x, kernel, cpu=_by_slices, default=_plain_of_volumes)


def _volume_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Operands]:
    return conv3x3x3(x, kernel), (x, kernel)


def _volume_backward(residuals: Operands, gradient: jax.Array) -> Operands:
    x, kernel = residuals
    to_x = conv3x3x3(gradient, kernel[::-1, ::-1, ::-1].swapaxes(3, 4))
    to_kernel = jax.lax.platform_dependent(
        x,
        gradient,
        cpu=_kernel_gradient_of_volumes,
        default=lambda x, g: jax.vjp(lambda k: _plain_of_volumes(x, k), kernel)[1](g)[0],
    )
    return to_x, to_kernel


conv3x3x3.defvjp(_volume_forward, _volume_backward)


def _plain_of_volumes(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def _by_slices(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """All three layers of the kernel on every slice, then shifted and added."""
    batch, depth, *sides, channels = x.shape
    if channels == 1:  # neighbours beside it, since one channel is what is dear
        flat = jnp.moveaxis(kernel, 0, 2).reshape(3, 3, 3, -1)
        return conv3x3(_with_neighbours(x), flat).reshape(*x.shape[:-1], -1)
    flat = jnp.moveaxis(kernel, 0, 3).reshape(3, 3, channels, -1)
    layers = conv3x3(_slices(jnp.pad(x, _BESIDE)), flat).reshape(batch, depth + 2, *sides, 3, -1)
    return functools.reduce(jnp.add, [layers[:, z : z + depth, ..., z, :] for z in range(3)])


def _kernel_gradient_of_volumes(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """sum_{b,d,h,w} x[b,d+l-1,h+i-1,w+j-1,c] gradient[b,d,h,w,k] as [3,3,3,C,K].

    The wider tensor is the one that takes its neighbours beside it, so that both are wide.
    """
    if x.shape[-1] >= gradient.shape[-1]:
        found = _correlate(_slices(gradient), _with_neighbours(x))[:, ::-1, ::-1]
        return found.reshape(*found.shape[:3], 3, -1).transpose(3, 1, 2, 4, 0)
    found = _correlate(_slices(x), _with_neighbours(gradient))
    return found.reshape(*found.shape[:3], 3, -1)[..., ::-1, :].transpose(3, 1, 2, 0, 4)


def _slices(x: jax.Array) -> jax.Array:
    return x.reshape(-1, *x.shape[2:])


def _with_neighbours(x: jax.Array) -> jax.Array:
    """Slices [B*D,H,W,3C]: the one before, itself, the one after, zeros beyond the ends."""
    padded = jnp.pad(x, _BESIDE)
    return _slices(jnp.concatenate([padded[:, z : z + x.shape[1]] for z in range(3)], axis=-1))


@jax.custom_vjp
def conv_halving(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution of stride 2, [B,(D,)H,W,C] * [2,2(,2),C,K] -> [B,(D/2,)H/2,W/2,K].

    Matrix products, since no pixel is seen twice: rows of pairs of pixels, corner by corner.
    """
    products = [
        jnp.matmul(corner, kernel[at].reshape(-1, kernel.shape[-1]))
        for at, corner in _corners(x).items()
    ]
    return functools.reduce(jnp.add, products)


@jax.custom_vjp
def conv_doubling(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution of stride 2, [B,(D,)H,W,C] * [2,2(,2),C,K] -> [B,(2D,)2H,2W,K].

    Pixel 2i + a of the result is pixel i times `kernel[a]`.
    """
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
    found = [
        jnp.matmul(
            corner.reshape(len(small), -1).T, small, preferred_element_type=jnp.float32
        ).astype(kernel.dtype)
        for corner in _corners(large).values()
    ]
    return jnp.stack(found).reshape(kernel.shape)


conv_halving.defvjp(lambda x, kernel: (conv_halving(x, kernel), (x, kernel)), _halving_backward)
conv_doubling.defvjp(lambda x, kernel: (conv_doubling(x, kernel), (x, kernel)), _doubling_backward)


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
