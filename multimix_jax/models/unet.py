"""The U-Net of MultiMix: its encoder and decoder, and both alone."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from multimix_jax.models.blocks import ConvBlock, initializers
from multimix_jax.ops.pooling import max_pool

PUBLISHED_FILTERS = (16, 32, 64, 128, 256)


class UNet(nn.Module):
    """Encoder and decoder of `MultiMix`, without classifier and bridge; the same call as `VNet`."""

    heads: Sequence[str] = ("mask",)  # one of 'mask', logits, and 'sdf', in [-1, 1] (tanh)
    mask_channels: int = 1
    filters: Sequence[int] = PUBLISHED_FILTERS
    dropout_rate: float = 0.25
    initializer: str = "torch"
    axis_name: str | None = None  # not used: instance norm needs no other device
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, dropout_keys: jax.Array | None = None, *, train: bool = False
    ) -> dict[str, jax.Array]:
        """Images [B,H,W,C] -> by head [B,H,W,mask_channels], float32; see `VNet`."""
        del train
        common = (self.dropout_rate, self.initializer, self.dtype)
        features = Encoder(self.filters, *common, name="encoder")(images, dropout_keys)
        decoder = Decoder(tuple(self.filters[-2::-1]), self.mask_channels, *common, name="decoder")
        logits = decoder(features, None, dropout_keys)
        (head,) = self.heads
        return {head: jnp.tanh(logits) if head == "sdf" else logits}


class Encoder(nn.Module):
    """Contracting path of a U-Net (Ronneberger et al. 2015): a block per level, pooled between."""

    filters: Sequence[int] = PUBLISHED_FILTERS
    dropout_rate: float = 0.25
    initializer: str = "torch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, dropout_keys: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """Images [B,H,W,C] -> features c1..cn, level i of shape [B, H/2^i, W/2^i, filters[i]]; H
        and W are multiples of 2^(depth - 1). `dropout_keys` [B], one per image, switch dropout
        on."""
        x = images.astype(self.dtype)
        features = []
        for level, width in enumerate(self.filters):
            if level:
                x = max_pool(x)
            block = ConvBlock(
                width, self.dropout_rate, self.initializer, self.dtype, name=f"block{level + 1}"
            )
            x = block(x, dropout_keys)
            features.append(x)
        return tuple(features)


class Decoder(nn.Module):
    """Expanding path of a U-Net: bilinear doubling (aligned corners), skip, block; then 1x1."""

    filters: Sequence[int] = (128, 64, 32, 16)  # of each stage from the deepest up
    mask_channels: int = 1
    dropout_rate: float = 0.25
    initializer: str = "torch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        features: Sequence[jax.Array],
        bridge: jax.Array | None = None,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Features c1..cn (see `Encoder`) -> mask logits [B,H,W,mask_channels], float32; `bridge`,
        at the size of c(n-1), joins the input of the first stage."""
        x = features[-1]
        skips = features[-2::-1]
        for stage, (width, skip) in enumerate(zip(self.filters, skips, strict=True)):
            if stage == 0 and bridge is not None:
                skip = jnp.concatenate([skip, bridge.astype(skip.dtype)], axis=-1)
            block = ConvBlock(
                width, self.dropout_rate, self.initializer, self.dtype, name=f"block{stage + 1}"
            )
            x = block(skip, dropout_keys, deeper=x)
        inits = initializers(self.initializer, x.shape[-1])
        x = nn.Conv(self.mask_channels, (1, 1), dtype=self.dtype, name="logits", **inits)(x)
        return x.astype(jnp.float32)
