"""Random keys that depend on (seed, step, name, index of the example), never on the devices."""

import zlib
from collections.abc import Mapping

import flax
import jax
import jax.numpy as jnp
import numpy as np


@flax.struct.dataclass
class ExampleKeys:
    """Hands out one key per example of a stream.

    Example i of the global batch gets the same key whether the batch lies on one device or on many,
    whole or in parts, so that runs do not depend on how they are spread.
    """

    key: jax.Array  # of this training step
    shard: jax.Array | int = 0  # which of the equal parts of the global batch this is

    def __call__(self, name: str, count: int) -> jax.Array:
        """Keys [count] for the purpose `name`; `count` examples lie in each part."""
        return self.several({name: count})

    def several(self, counts: Mapping[str, int]) -> jax.Array:
        """As a call for each name, one after the other; drawn together they compile faster."""
        salts = [zlib.crc32(name.encode()) & 0x7FFFFFFF for name in counts]
        indices = [self.shard * count + jnp.arange(count) for count in counts.values()]
        named = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
            self.key, np.repeat(np.array(salts, np.uint32), list(counts.values()))
        )
        return jax.vmap(jax.random.fold_in)(named, jnp.concatenate(indices))
