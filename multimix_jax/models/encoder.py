"""The encoder shared by both tasks."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from multimix_jax.models import blocks

PUBLISHED_FILTERS = (16, 32, 64, 128, 256)


class Encoder(nn.Module):
    """Contracting path of a U-Net (Ronneberger et al. 2015): one block per level, pooled between.

    Attributes:
      filters: channels of each level; the number of entries is the depth.
      dropout_rate: dropout after each block, on when `dropout_keys` are given.
      initializer: 'torch' or 'flax' initialisation.
      dtype: dtype of the computation; parameters stay float32.
    """

    filters: Sequence[int] = PUBLISHED_FILTERS
    dropout_rate: float = 0.25
    initializer: str = "torch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, dropout_keys: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """Images [B,H,W,C] -> features c1..cn, level i of shape [B, H/2^i, W/2^i, filters[i]].

        H and W are multiples of 2^(depth - 1). `dropout_keys` [B], one key per image, switch
        dropout on.
        """
        x = images.astype(self.dtype)
        features = []
        for level, width in enumerate(self.filters):
            if level:
                x = blocks.max_pool(x)
            block = blocks.ConvBlock(
                width, self.dropout_rate, self.initializer, self.dtype, name=f"block{level + 1}"
            )
            x = block(x, dropout_keys)
            features.append(x)
        return tuple(features)
