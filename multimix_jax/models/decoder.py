"""The decoder: from the encoder's features, and the bridge, to mask logits."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from multimix_jax.models import blocks


class Decoder(nn.Module):
    """Expanding path of a U-Net: bilinear doubling (aligned corners), skip, block; then 1x1.

    Attributes:
      filters: channels of each stage from the deepest up, one fewer than the encoder's levels.
      mask_channels: logits per pixel.
      dropout_rate, initializer, dtype: as for the encoder.
    """

    filters: Sequence[int] = (128, 64, 32, 16)
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
        """Features c1..cn (see `Encoder`) -> mask logits [B,H,W,mask_channels], float32.

        `bridge`, at the size of c(n-1), joins the input of the first stage.
        """
        x = features[-1]
        skips = features[-2::-1]
        for stage, (width, skip) in enumerate(zip(self.filters, skips, strict=True)):
            if stage == 0 and bridge is not None:
                skip = jnp.concatenate([skip, bridge.astype(skip.dtype)], axis=-1)
            block = blocks.ConvBlock(
                width, self.dropout_rate, self.initializer, self.dtype, name=f"block{stage + 1}"
            )
            x = block(skip, dropout_keys, deeper=x)
        inits = blocks.initializers(self.initializer, x.shape[-1])
        x = nn.Conv(self.mask_channels, (1, 1), dtype=self.dtype, name="logits", **inits)(x)
        return x.astype(jnp.float32)
