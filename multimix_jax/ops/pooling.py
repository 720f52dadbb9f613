"""Max-pooling whose gradient is fast on CPU: 8 times (docs/performance.md, "Each layer")."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def max_pool_reference(x: jax.Array) -> jax.Array:
    """What `max_pool` computes, as Flax spells it."""
    return nn.max_pool(x, (2, 2), (2, 2))


def max_pool(x: jax.Array) -> jax.Array:
    """2x2 maximum [B,H,W,C] -> [B,H//2,W//2,C]; of equals the first gets the gradient."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    corner = lambda i, j: x[:, i:height:2, j:width:2]
    larger = lambda a, b: jnp.where(b > a, b, a)
    # Comparisons, because XLA's gradient of a window's maximum is many times slower on CPU.
    return larger(larger(corner(0, 0), corner(0, 1)), larger(corner(1, 0), corner(1, 1)))
