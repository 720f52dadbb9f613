"""The U-Net of MultiMix alone, with the same call as V-Net."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from multimix_jax.models.decoder import Decoder
from multimix_jax.models.encoder import PUBLISHED_FILTERS, Encoder


class UNet(nn.Module):
    """Encoder and decoder of `MultiMix`, without classifier and bridge; one head, images of 2D.

    Attributes:
      heads: one of 'mask', logits, and 'sdf', a signed distance map in [-1, 1] (tanh).
      mask_channels, filters, dropout_rate, initializer, dtype: as for `MultiMix`.
      axis_name: not used: instance norm needs no other device.
    """

    heads: Sequence[str] = ("mask",)
    mask_channels: int = 1
    filters: Sequence[int] = PUBLISHED_FILTERS
    dropout_rate: float = 0.25
    initializer: str = "torch"
    axis_name: str | None = None
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
