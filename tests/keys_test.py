import zlib

import jax
import jax.numpy as jnp
import numpy as np

from multimix_jax.keys import ExampleKeys

KEY = jax.random.key(3)


def bits(keys):
    return np.asarray(jax.random.key_data(keys))


def test_parts_of_a_batch_get_the_keys_of_the_whole():
    whole = bits(ExampleKeys(KEY)("view", 6))
    for parts in (2, 3, 6):
        cut = [ExampleKeys(KEY, part)("view", 6 // parts) for part in range(parts)]
        np.testing.assert_array_equal(bits(jnp.concatenate(cut)), whole)


def test_all_differ():
    """By example, by name and by step."""
    steps = [jax.random.fold_in(KEY, step) for step in range(3)]
    names = ("view", "weak", "seg/labeled/encoder")
    keys = [bits(ExampleKeys(step)(name, 4)) for step in steps for name in names]
    assert len(np.unique(np.concatenate(keys), axis=0)) == 3 * 3 * 4


def test_several_are_those_of_each():
    keys = ExampleKeys(KEY, 1)
    each = [keys("view", 2), keys("weak", 3), keys("other", 2)]
    several = keys.several({"view": 2, "weak": 3, "other": 2})
    np.testing.assert_array_equal(bits(several), bits(jnp.concatenate(each)))
    by_hand = jax.random.fold_in(jax.random.fold_in(KEY, zlib.crc32(b"weak") & 0x7FFFFFFF), 4)
    np.testing.assert_array_equal(bits(several)[3], bits(by_hand))


def test_traced_shard():
    draw = jax.jit(lambda shard: jax.random.key_data(ExampleKeys(KEY, shard)("view", 2)))
    np.testing.assert_array_equal(draw(2), bits(ExampleKeys(KEY)("view", 6))[4:])
