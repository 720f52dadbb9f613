"""Random keys that depend on (seed, step, name, index of the example), never on the devices."""

import zlib

import flax
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class ExampleKeys:
    """Hands out one key per example of a stream.

    Example i of the global batch gets the same key whether the batch lies on one device or on many,
    whole or in parts, so that runs do not depend on how they are spread.

    Attributes:
      key: key of this training step.
      shard: which of the equal parts of the global batch this is, int32 scalar.
    """

    key: jax.Array
    shard: jax.Array | int = 0

    def __call__(self, name: str, count: int) -> jax.Array:
        """Keys [count] for the purpose `name`; `count` examples lie in each part."""
        key = jax.random.fold_in(self.key, zlib.crc32(name.encode()) & 0x7FFFFFFF)
        indices = self.shard * count + jnp.arange(count)
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, indices)
