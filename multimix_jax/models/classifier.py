"""The head that turns the encoder's last features into class logits."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from multimix_jax.models import blocks


class ClassifierHead(nn.Module):
    """2x2 max-pool -> global average pool -> dense."""

    num_classes: int = 2
    initializer: str = "torch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [B,h,w,C] with h, w >= 2 -> logits [B,K], always float32."""
        x = blocks.max_pool(features).astype(jnp.float32).mean(axis=(1, 2))
        inits = blocks.initializers(self.initializer, x.shape[-1])
        x = nn.Dense(self.num_classes, dtype=self.dtype, name="logits", **inits)(x)
        return x.astype(jnp.float32)
