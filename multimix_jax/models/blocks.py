"""What the networks are built of: convolution, normalisation, dropout, initial weights."""

import math
import zlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from multimix_jax.errors import UsageError
from multimix_jax.ops import dropout
from multimix_jax.ops.convolution import conv3x3
from multimix_jax.ops.interpolation import conv3x3_doubled
from multimix_jax.ops.norms import EPSILON, affine, batch_norm_relu, instance_norm_relu


class ConvBlock(nn.Module):
    """(3x3 convolution -> instance norm -> leaky ReLU .2) twice, then dropout, as in MultiMix."""

    features: int
    dropout_rate: float = 0.25
    initializer: str = "torch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, dropout_keys: jax.Array | None = None, deeper: jax.Array | None = None
    ) -> jax.Array:
        """[B,H,W,C] -> [B,H,W,features]; for `deeper` see `Conv3x3`."""
        x = Conv3x3(self.features, self.initializer, self.dtype, name="conv1")(x, deeper)
        x = instance_norm_relu(x)
        x = Conv3x3(self.features, self.initializer, self.dtype, name="conv2")(x)
        x = instance_norm_relu(x)
        return ExampleDropout(self.dropout_rate)(x, dropout_keys)


class Conv3x3(nn.Module):
    """3x3 convolution for an instance norm to follow, which takes any bias out again.

    The published network has that bias, so it is kept among the parameters, but it is not added:
    its true gradient is zero; a computed one is rounding noise that Adam blows up to full steps.
    """

    features: int
    initializer: str = "torch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, deeper: jax.Array | None = None) -> jax.Array:
        """[B,H,W,C] -> [B,H,W,features], edges padded with zeros; `deeper` [B,H/2,W/2,D], doubled
        bilinearly, precedes the channels of `x`."""
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


class BatchNormRelu(nn.Module):
    """`batch_norm_relu` that keeps running statistics (collection `batch_stats`) as PyTorch does:
    momentum .1 of new batches, running variance of the sample."""

    axis_name: str | None = None  # mapped axis whose devices' batches count as one

    @nn.compact
    def __call__(self, x: jax.Array, conv_bias: jax.Array, *, train: bool) -> jax.Array:
        """[B,...,C], and the bias [C] of the convolution before, which is not added yet: in
        training the mean takes it out again, so it moves the running mean alone."""
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        running_variance = self.variable("batch_stats", "var", jnp.ones, features)
        if not train:
            factor = scale * jax.lax.rsqrt(running_variance.value + EPSILON)
            shift = bias + (conv_bias - running_mean.value) * factor
            return nn.relu(affine(x, factor, shift)).astype(x.dtype)
        y, mean, variance = batch_norm_relu(x, scale, bias, self.axis_name)
        if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
            devices = jax.lax.axis_size(self.axis_name) if self.axis_name else 1
            count = devices * (x.size // features)
            new = mean + conv_bias, variance * (count / max(count - 1, 1))
            for running, latest in zip(
                (running_mean, running_variance), jax.lax.stop_gradient(new)
            ):
                running.value = 0.9 * running.value + 0.1 * latest
        return y


class ExampleDropout(nn.Module):
    """Dropout whose mask for an image depends on that image's key alone.

    Linen's own draws one mask for the whole batch, so an image's mask would change with the number
    of devices that the batch is spread over.
    """

    rate: float
    whole_channels: bool = False  # drop channels (Tompson et al. 2015) instead of single values

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """`x` [B,...] with one PRNG key per image, `keys` [B]; None switches dropout off."""
        if keys is None or self.rate == 0.0:
            return x
        # Each layer folds its own name into the keys.
        salt = zlib.crc32("/".join(map(str, self.path)).encode()) & 0x7FFFFFFF
        shape = (*([1] * (x.ndim - 2)), x.shape[-1]) if self.whole_channels else x.shape[1:]
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, salt)
        keep = dropout.keep_mask(keys, shape, self.rate)
        return jnp.where(keep, x / (1.0 - dropout.rounded(self.rate)), jnp.zeros_like(x))


def initializers(name: str, fan_in: int) -> dict[str, Any]:
    """`kernel_init` and `bias_init` of a layer: `torch` (PyTorch's) or `flax` (Flax's default)."""
    if name == "torch":
        return {"kernel_init": _uniform(fan_in), "bias_init": _uniform(fan_in)}
    if name == "flax":
        return {"kernel_init": nn.initializers.lecun_normal(), "bias_init": nn.initializers.zeros}
    raise UsageError(
        f"initializer={name!r} is unknown; use 'torch' or 'flax' (config.model.initializer)"
    )


def _uniform(fan_in: int) -> Callable[..., jax.Array]:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default: for kernels Kaiming-uniform with
    a = sqrt(5) (He et al. 2015), for biases the same bound."""
    bound = 1.0 / np.sqrt(fan_in)

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        # Flat, because XLA compiles a shaped draw several times slower on CPU; the values agree.
        return jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound).reshape(shape)

    return init
