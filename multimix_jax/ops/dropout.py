"""Dropout from as few random bits as its rate needs: two for 1/4 (docs/performance.md)."""

import math

import jax
import jax.numpy as jnp


def keep_mask_reference(keys: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
    """What `keep_mask` draws, from other bits, as JAX spells it."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))(keys)


def keep_mask(keys: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
    """Bool [B,*shape] for keys [B], independent, true with probability 1 - `rounded(rate)`."""
    bits, threshold = _fraction_of_two(rate)
    size = math.prod(shape)

    def integers(key: jax.Array) -> jax.Array:
        """Uniform below 2^bits, uint8 [size]."""
        # Flat 32-bit draws compile and run several times faster on CPU than bytes do.
        words = jax.random.bits(key, (-(-size * bits // 32),), jnp.uint32)
        octets = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(1, -1)
        shifts = jnp.arange(0, 8, bits, dtype=jnp.uint8)[:, None]
        return ((octets >> shifts) & (2**bits - 1)).reshape(-1)[:size]

    return (jax.vmap(integers)(keys) >= threshold).reshape(len(keys), *shape)


def rounded(rate: float) -> float:
    """The rate that is drawn with: a multiple of 1/256."""
    bits, threshold = _fraction_of_two(rate)
    return threshold / 2**bits


def _fraction_of_two(rate: float) -> tuple[int, int]:
    """Bits, one of 1, 2, 4 and 8, and numerator of `rate` as numerator / 2^bits, to 1/256."""
    bits = next(bits for bits in (1, 2, 4, 8) if bits == 8 or (rate * 2**bits).is_integer())
    return bits, round(rate * 2**bits)
