"""What encoder and decoder are built of: convolution, normalisation, dropout, pooling.

Shapes: `B` images, `H` x `W` pixels, `C` channels.
"""

import functools
import math
import zlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from multimix_jax.errors import UsageError
from multimix_jax.ops.convolution import conv3x3, conv3x3_doubled

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


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm_relu(
    x: Array, scale: Array, bias: Array, axis_name: str | None
) -> tuple[Array, Array, Array]:
    """Batch norm (Ioffe & Szegedy 2015) by the batch's own statistics, then ReLU.

    Statistics are taken in float32 over all axes but the last. The gradient is kept short, two
    passes over `x` and the gradient that arrives; it does not go through the statistics returned.

    Args:
      x: [B,...,C].
      scale, bias: [C].
      axis_name: mapped axis whose devices' batches count as one, or None.

    Returns:
      Of the shape of `x`; mean and variance (of the population), float32 [C].
    """
    return _batch_norm_relu(x, scale, bias, axis_name)[0]


def _batch_norm_relu(
    x: Array, scale: Array, bias: Array, axis_name: str | None
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    mean, of_squares = _means(axis_name, x.astype(jnp.float32), jnp.square(x.astype(jnp.float32)))
    variance = jnp.maximum(of_squares - jnp.square(mean), 0.0)
    inverse = jax.lax.rsqrt(variance + EPSILON)
    z = _affine(x, inverse, -mean * inverse)
    y = nn.relu(_affine(z, scale, bias)).astype(x.dtype)
    return (y, mean, variance), (x, mean, inverse, scale, bias)


def _batch_norm_relu_backward(
    axis_name: str | None, residuals: tuple[Array, ...], gradients: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    x, mean, inverse, scale, bias = residuals
    z = _affine(x, inverse, -mean * inverse)
    arrived = gradients[0].astype(jnp.float32)
    arrived = jnp.where(_affine(z, scale, bias) > 0, arrived, 0.0)
    here = _means(None, arrived, arrived * z)
    everywhere = jax.lax.pmean(here, axis_name) if axis_name else here
    to_z = arrived - _affine(z, everywhere[1], everywhere[0])
    count = x.size // x.shape[-1]
    to_x = _affine(to_z, scale * inverse, jnp.zeros_like(mean)).astype(x.dtype)
    return to_x, (here[1] * count).astype(scale.dtype), (here[0] * count).astype(bias.dtype)


batch_norm_relu.defvjp(_batch_norm_relu, _batch_norm_relu_backward)


def _means(axis_name: str | None, *arrays: Array) -> tuple[Array, ...]:
    """Means over all axes but the last, and over devices."""
    found = tuple(array.mean(axis=range(array.ndim - 1)) for array in arrays)
    return jax.lax.pmean(found, axis_name) if axis_name else found


def _affine(x: Array, scale: Array, shift: Array) -> Array:
    """x scale + shift by channel, float32."""
    channels = (*[1] * (x.ndim - 1), -1)
    return x.astype(jnp.float32) * scale.reshape(channels) + shift.reshape(channels)


class BatchNormRelu(nn.Module):
    """`batch_norm_relu` that keeps running statistics (collection `batch_stats`).

    As PyTorch's BatchNorm: momentum .1 of new batches, running variance of the sample.

    Attributes:
      axis_name: mapped axis whose devices' batches count as one, or None.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, conv_bias: Array, *, train: bool) -> Array:
        """[B,...,C], and the bias [C] of the convolution before, which is not added yet.

        In training the mean takes it out again, so it moves the running mean alone.
        """
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        zeros, ones = jnp.zeros(features), jnp.ones(features)
        running_mean = self.variable("batch_stats", "mean", lambda: zeros)
        running_variance = self.variable("batch_stats", "var", lambda: ones)
        if not train:
            factor = scale * jax.lax.rsqrt(running_variance.value + EPSILON)
            shift = bias + (conv_bias - running_mean.value) * factor
            return nn.relu(_affine(x, factor, shift)).astype(x.dtype)
        y, mean, variance = batch_norm_relu(x, scale, bias, self.axis_name)
        if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
            devices = jax.lax.axis_size(self.axis_name) if self.axis_name else 1
            count = devices * (x.size // features)
            for running, new in (
                (running_mean, mean + conv_bias),
                (running_variance, variance * (count / max(count - 1, 1))),
            ):
                running.value = 0.9 * running.value + 0.1 * jax.lax.stop_gradient(new)
        return y


class ExampleDropout(nn.Module):
    """Dropout whose mask for an image depends on that image's key alone.

    Linen's own draws one mask for the whole batch, so an image's mask would change with the number
    of devices that the batch is spread over.

    Attributes:
      rate: share that is dropped.
      whole_channels: drop channels (Tompson et al. 2015) instead of single values.
    """

    rate: float
    whole_channels: bool = False

    @nn.compact
    def __call__(self, x: Array, keys: Array | None) -> Array:
        """`x` [B,...] with one PRNG key per image, `keys` [B]; None switches dropout off."""
        if keys is None or self.rate == 0.0:
            return x
        # Each layer folds its own name into the keys.
        salt = zlib.crc32("/".join(map(str, self.path)).encode()) & 0x7FFFFFFF
        shape = (*([1] * (x.ndim - 2)), x.shape[-1]) if self.whole_channels else x.shape[1:]
        size = math.prod(shape)
        bits, threshold = _fraction_of_two(self.rate)
        draw = lambda key: _random_integers(jax.random.fold_in(key, salt), size, bits)
        keep = (jax.vmap(draw)(keys) >= threshold).reshape(len(x), *shape)
        return jnp.where(keep, x / (1.0 - threshold / 2**bits), jnp.zeros_like(x))


def _fraction_of_two(rate: float) -> tuple[int, int]:
    """Bits and numerator of `rate` as numerator / 2^bits, to 1/256: few bits are little work."""
    bits = next(bits for bits in (1, 2, 4, 8) if bits == 8 or (rate * 2**bits).is_integer())
    return bits, round(rate * 2**bits)


def _random_integers(key: Array, size: int, bits: int) -> Array:
    """Uniform integers below 2^bits as uint8 [size]; `bits` is 1, 2, 4 or 8."""
    # Flat 32-bit draws compile and run several times faster on CPU than bytes do.
    words = jax.random.bits(key, (-(-size * bits // 32),), jnp.uint32)
    octets = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(1, -1)
    shifts = jnp.arange(0, 8, bits, dtype=jnp.uint8)[:, None]
    return ((octets >> shifts) & (2**bits - 1)).reshape(-1)[:size]


class Conv3x3(nn.Module):
    """3x3 convolution for an instance norm to follow, which takes any bias out again.

    The published network has that bias, so it is kept among the parameters, but it is not added:
    its true gradient is zero; a computed one is rounding noise that Adam blows up to full steps.
    """

    features: int
    initializer: str = "torch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, deeper: Array | None = None) -> Array:
        """[B,H,W,C] -> [B,H,W,features], edges padded with zeros.

        `deeper` [B,H/2,W/2,D], doubled bilinearly, precedes the channels of `x`.
        """
        first = 0 if deeper is None else deeper.shape[-1]
        channels = first + x.shape[-1]
        inits = initializers(self.initializer, 9 * channels)
        kernel = self.param("kernel", inits["kernel_init"], (3, 3, channels, self.features))
        self.param("bias", inits["bias_init"], (self.features,))
        kernel = kernel.astype(self.dtype)
        y = conv3x3(x.astype(self.dtype), kernel[:, :, first:])
        if deeper is not None:
            # A convolution over a concatenation is a sum of convolutions.
            y += conv3x3_doubled(deeper.astype(self.dtype), kernel[:, :, :first])
        return y


class ConvBlock(nn.Module):
    """(3x3 convolution -> instance norm -> leaky ReLU .2) twice, then dropout, as in MultiMix."""

    features: int
    dropout_rate: float = 0.25
    initializer: str = "torch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, dropout_keys: Array | None = None, deeper: Array | None = None
    ) -> Array:
        """[B,H,W,C] -> [B,H,W,features]; for `deeper` see `Conv3x3`."""
        conv1, conv2 = (
            Conv3x3(self.features, self.initializer, self.dtype, name=name)
            for name in ("conv1", "conv2")
        )
        x = norm_relu(conv2(norm_relu(conv1(x, deeper))))
        return ExampleDropout(self.dropout_rate)(x, dropout_keys)


def max_pool(x: Array) -> Array:
    """2x2 maximum [B,H,W,C] -> [B,H//2,W//2,C]; of equals the first gets the gradient."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    corner = lambda i, j: x[:, i:height:2, j:width:2]
    larger = lambda a, b: jnp.where(b > a, b, a)
    # Comparisons, because XLA's gradient of a window's maximum is many times slower on CPU.
    return larger(larger(corner(0, 0), corner(0, 1)), larger(corner(1, 0), corner(1, 1)))
