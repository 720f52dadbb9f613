"""What encoder and decoder are built of: convolution, normalisation, dropout, interpolation.

Shapes: `B` images, `H` x `W` pixels, `C` channels.
"""

import math
import zlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from multimix_jax.errors import UsageError
from multimix_jax.models.convolution import conv3x3

Array = jax.Array
Initializer = Callable[..., Array]

EPSILON = 1e-5  # of the instance norm
SLOPE = 0.2  # of the leaky ReLU


def uniform_fan_in(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for kernels and biases.

    It is Kaiming-uniform with a = sqrt(5) (He et al. 2015), for weights, and the same bound for
    biases.
    """
    bound = 1.0 / np.sqrt(fan_in)

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        # Flat, because XLA compiles a shaped draw several times slower on CPU; the values agree.
        return jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound).reshape(shape)

    return init


def initializers(name: str, fan_in: int) -> dict[str, Any]:
    """`kernel_init` and `bias_init` of a layer: `torch` (PyTorch's) or `flax` (Flax's default)."""
    if name == "torch":
        return {"kernel_init": uniform_fan_in(fan_in), "bias_init": uniform_fan_in(fan_in)}
    if name == "flax":
        return {"kernel_init": nn.initializers.lecun_normal(), "bias_init": nn.initializers.zeros}
    raise UsageError(
        f"initializer={name!r} is unknown; use 'torch' or 'flax' (config.model.initializer)"
    )


@jax.custom_vjp
def norm_relu(x: Array) -> Array:
    """Instance norm (Ulyanov et al. 2016), then leaky ReLU of slope .2; [B,H,W,C] -> the same.

    The norm gives zero mean and unit variance over H and W for each image and channel, without
    scale or bias. Statistics are taken in float32, whatever the dtype of `x`. The gradient needs
    the result alone, and two passes over it.
    """
    return _norm_relu(x)[0]


def _norm_relu(x: Array) -> tuple[Array, tuple[Array, Array]]:
    x32 = x.astype(jnp.float32)
    mean = x32.mean(axis=(1, 2), keepdims=True)
    centred = x32 - mean
    variance = jnp.square(centred).mean(axis=(1, 2), keepdims=True)
    inverse = jax.lax.rsqrt(variance + EPSILON)
    z = centred * inverse
    y = jnp.maximum(z, SLOPE * z).astype(x.dtype)
    return y, (y, inverse)


def _norm_relu_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array]:
    y, inverse = residuals
    gradient32, y32 = gradient.astype(jnp.float32), y.astype(jnp.float32)
    z = jnp.minimum(y32, y32 / SLOPE)
    to_z = jnp.where(y32 > 0, gradient32, SLOPE * gradient32)
    mean = to_z.mean(axis=(1, 2), keepdims=True)
    along = (gradient32 * y32).mean(axis=(1, 2), keepdims=True)  # of to_z * z, which is the same
    return ((inverse * (to_z - mean - along * z)).astype(y.dtype),)


norm_relu.defvjp(_norm_relu, _norm_relu_backward)


class ExampleDropout(nn.Module):
    """Dropout whose mask for an image depends on that image's key alone.

    Linen's own draws one mask for the whole batch, so an image's mask would change with the number
    of devices that the batch is spread over.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, keys: Array | None) -> Array:
        """`x` [B,...] with one PRNG key per image, `keys` [B]; None switches dropout off."""
        if keys is None or self.rate == 0.0:
            return x
        # Each layer folds its own name into the keys.
        salt = zlib.crc32("/".join(map(str, self.path)).encode()) & 0x7FFFFFFF
        size = math.prod(x.shape[1:])
        draw = lambda key: _random_bytes(jax.random.fold_in(key, salt), size)
        # Eight bits are a quarter of the work of a float; 1/256 is finer than any rate in use.
        threshold = round(self.rate * 256)
        keep = (jax.vmap(draw)(keys) >= threshold).reshape(x.shape)
        return jnp.where(keep, x / (1.0 - threshold / 256), jnp.zeros_like(x))


def _random_bytes(key: Array, size: int) -> Array:
    """Uniform uint8 [size]. Flat 32-bit draws compile and run several times faster on CPU."""
    words = jax.random.bits(key, (-(-size // 4),), jnp.uint32)
    return jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[:size]


class Conv3x3(nn.Module):
    """3x3 convolution for an instance norm to follow, which takes any bias out again.

    The published network has that bias, so it is kept among the parameters, but it is not added:
    its true gradient is zero; a computed one is rounding noise that Adam blows up to full steps.
    """

    features: int
    initializer: str = "torch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B,H,W,C] -> [B,H,W,features], edges padded with zeros."""
        channels = x.shape[-1]
        inits = initializers(self.initializer, 9 * channels)
        kernel = self.param("kernel", inits["kernel_init"], (3, 3, channels, self.features))
        self.param("bias", inits["bias_init"], (self.features,))
        return conv3x3(x.astype(self.dtype), kernel.astype(self.dtype))


class ConvBlock(nn.Module):
    """(3x3 convolution -> instance norm -> leaky ReLU .2) twice, then dropout, as in MultiMix."""

    features: int
    dropout_rate: float = 0.25
    initializer: str = "torch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, dropout_keys: Array | None = None) -> Array:
        """[B,H,W,C] -> [B,H,W,features]."""
        for index in (1, 2):
            x = Conv3x3(self.features, self.initializer, self.dtype, name=f"conv{index}")(x)
            x = norm_relu(x)
        return ExampleDropout(self.dropout_rate)(x, dropout_keys)


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


def max_pool(x: Array) -> Array:
    """2x2 maximum [B,H,W,C] -> [B,H//2,W//2,C]; of equals the first gets the gradient."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    corner = lambda i, j: x[:, i:height:2, j:width:2]
    larger = lambda a, b: jnp.where(b > a, b, a)
    # Comparisons, because XLA's gradient of a window's maximum is many times slower on CPU.
    return larger(larger(corner(0, 0), corner(0, 1)), larger(corner(1, 0), corner(1, 1)))
