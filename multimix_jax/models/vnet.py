"""V-Net, in two and three dimensions."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from multimix_jax.errors import UsageError
from multimix_jax.models.blocks import BatchNormRelu, ExampleDropout, initializers
from multimix_jax.ops.convolution import conv3x3
from multimix_jax.ops.norms import EPSILON
from multimix_jax.ops.strided import conv_doubling, conv_halving

NORMS = ("batch", "group", "instance")


class VNet(nn.Module):
    """Milletari et al. 2016, as used by Zhang & Zhang 2021 (DTML) and the works it builds on.

    Each level is (3x3[x3] convolution -> norm -> ReLU) some times; between levels strided 2x2[x2]
    convolutions down and transposed ones up, norm and ReLU too; skips are added. It has the two or
    three dimensions of its images. With no arguments and images of three dimensions it is the
    published network of one head, 9,448,849 parameters; with both heads, 9,448,866. `norm` is
    'batch', 'group' (16 groups, as far as they divide the features) or 'instance' (without scale
    and bias).
    """

    heads: Sequence[str] = ("mask",)  # 'mask', logits; 'sdf', a distance map in [-1, 1] (tanh)
    mask_channels: int = 1  # of each head
    filters: int = 16  # of the first level; they double at each
    convolutions: Sequence[int] = (1, 2, 3, 3, 3)  # of each level; their number is the depth
    norm: str = "batch"
    dropout_rate: float = 0.5  # of whole channels, after the bottleneck and before the heads
    initializer: str = "torch"  # as published, or "flax"
    axis_name: str | None = None  # mapped axis over which batch norm takes its statistics
    dtype: Any = jnp.float32  # of the computation; parameters and statistics stay float32

    @nn.compact
    def __call__(
        self, images: jax.Array, dropout_keys: jax.Array | None = None, *, train: bool = False
    ) -> dict[str, jax.Array]:
        """Images [B,(D,)H,W,C] -> by head [B,(D,)H,W,mask_channels], float32.

        Each side is a multiple of 2^(depth - 1). `dropout_keys` [B], one for each image, switch
        dropout on. With `train` batch norm uses the batch's own statistics, and updates the running
        ones (collection `batch_stats`).
        """
        self._check(images)
        x, skips = images, []
        for level, count in enumerate(self.convolutions):
            if level:
                skips.append(x)
                x = self._block(x, level, f"down{level}", "down", train)
            for i in range(1, count + 1):
                x = self._block(x, level, f"encoder{level}_{i}", "same", train)
        x = ExampleDropout(self.dropout_rate, whole_channels=True)(x, dropout_keys)
        for level in reversed(range(len(skips))):
            x = self._block(x, level, f"up{level}", "up", train) + skips[level]
            for i in range(1, self.convolutions[level] + 1):
                x = self._block(x, level, f"decoder{level}_{i}", "same", train)
        x = ExampleDropout(self.dropout_rate, whole_channels=True)(x, dropout_keys)
        outputs = {}
        for head in self.heads:
            conv = _Conv(self.mask_channels, "point", self.initializer, self.dtype, name=head)
            y, bias = conv(x)
            y = y.astype(jnp.float32) + bias.reshape(*[1] * (y.ndim - 1), -1)
            outputs[head] = jnp.tanh(y) if head == "sdf" else y
        return outputs

    def _block(self, x: jax.Array, level: int, name: str, kind: str, train: bool) -> jax.Array:
        """Convolution, norm, ReLU."""
        features, conv = self.filters * 2**level, f"{name}_conv"
        x, bias = _Conv(features, kind, self.initializer, self.dtype, name=conv)(x)
        name = f"{name}_norm"
        if self.norm == "batch":
            return BatchNormRelu(self.axis_name, name=name)(x, bias, train=train)
        x += bias.astype(x.dtype).reshape(*[1] * (x.ndim - 1), -1)
        common = {"epsilon": EPSILON, "dtype": self.dtype, "name": name}
        if self.norm == "group":
            return nn.relu(nn.GroupNorm(math.gcd(16, x.shape[-1]), **common)(x))
        return nn.relu(nn.InstanceNorm(use_bias=False, use_scale=False, **common)(x))

    def _check(self, images: jax.Array) -> None:
        for head in self.heads:
            if head not in ("mask", "sdf"):
                raise UsageError(f"head {head!r} is unknown; use 'mask' and 'sdf' (config.model)")
        if self.norm not in NORMS:
            raise UsageError(
                f"norm={self.norm!r} is unknown; use one of {', '.join(NORMS)} (config.model.norm)"
            )
        if images.ndim not in (4, 5):
            raise ValueError(f"images are {images.shape}, expected [B,H,W,C] or [B,D,H,W,C]")
        factor = 2 ** (len(self.convolutions) - 1)
        sides = images.shape[1:-1]
        if math.gcd(*sides) % factor:
            raise UsageError(
                f"images are {'x'.join(map(str, sides))}, but each side must be a multiple of "
                f"{factor}; change config.patch, or the number of config.model.convolutions"
            )


class _Conv(nn.Module):
    """3x3 ('same'), 2x2 with stride 2 ('down', 'up') or 1x1 ('point') convolution; gives the
    result, and the bias, which is yet to be added."""

    features: int
    kind: str
    initializer: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        dims, channels = x.ndim - 2, x.shape[-1]
        side = {"same": 3, "down": 2, "up": 2, "point": 1}[self.kind]
        # PyTorch counts the inputs of a transposed convolution by its outputs.
        counted = self.features if self.kind == "up" else channels
        inits = initializers(self.initializer, side**dims * counted)
        shape = (*[side] * dims, channels, self.features)
        kernel = self.param("kernel", inits["kernel_init"], shape).astype(self.dtype)
        bias = self.param("bias", inits["bias_init"], (self.features,))
        x = x.astype(self.dtype)
        if self.kind == "point":
            return jnp.matmul(x, kernel.reshape(channels, -1)), bias
        convolution = {"same": conv3x3, "down": conv_halving, "up": conv_doubling}[self.kind]
        return convolution(x, kernel), bias
