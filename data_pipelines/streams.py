"""tf.data: streams of named batches that are functions of (seed, step), and evaluation batches."""

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from data_pipelines.examples import Examples
from data_pipelines.tensorflow_alone import tf
from data_pipelines.threads import THREADS
from multimix_jax.names import Stream

Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Pool:
    """A pool of examples to draw training batches from, endlessly.

    Attributes:
      examples: the prepared data set.
      indices: which of them, int64 [N], N >= 1.
      fields: what a batch holds of each: 'image', 'mask', 'label', 'extent'.
      multiple: how many times `batch_size` a batch holds.
    """

    examples: Examples
    indices: np.ndarray
    fields: tuple[str, ...]
    multiple: int = 1

    @property
    def ids(self) -> list[str]:
        """Ids of the pool, in its order."""
        return self.examples.ids[self.indices].tolist()


def train_batches(
    streams: Mapping[Stream, Pool],
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Batches of steps `start` to `stop` - 1, read ahead in the background.

    Every epoch of a stream is a permutation of its pool that follows from (seed, epoch, name), so
    the batch of a step is known without the ones before: a resumed run starts at its step at once
    and gets just the batches it would have got.

    Args:
      streams: the pool of each.
      batch_size: B, images per stream and `Pool.multiple`, over all processes.
      seed: of the order.
      start, stop: steps.
      process_index, process_count: this process gets its share of each batch.

    Yields:
      For each stream a dictionary of NumPy arrays: `image` and `mask` as in `Examples.fetch`,
      `label` int32 [b], `extent` int32 [b,dims], with b = batch_size * multiple / process_count.
    """
    share = batch_size // process_count
    first = process_index * share

    def batch_of(step: tf.Tensor) -> Batch:
        place = step * batch_size + first
        return {
            name: _read(pool, _order(pool, name, seed, place, share))
            for name, pool in streams.items()
        }

    return _read_ahead(tf.data.Dataset.range(start, stop), batch_of)


def ids_of_step(
    streams: Mapping[Stream, Pool], batch_size: int, seed: int, step: int
) -> dict[Stream, list[str]]:
    """Ids of the examples that `train_batches` gives at a step, by stream."""
    ids = {}
    for name, pool in streams.items():
        order = _order(pool, name, seed, step * batch_size, batch_size).numpy()
        ids[name] = pool.examples.ids[pool.indices[order]].tolist()
    return ids


def eval_batches(
    examples: Examples, indices: np.ndarray, *, batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
    """All of `indices` once, in order; the last batch is filled up so that none is lost.

    Volumes come one by one, each at its own size.

    Yields:
      `image`, `mask`, `label` as in `train_batches`, `has_mask` bool [B], and `valid` bool [B],
      False for the filling.
    """
    if examples.of_volumes:
        return _volumes(examples, indices)
    padded = -(-len(indices) // batch_size) * batch_size
    # The filling repeats the last example; `valid` takes it out of every figure.
    order = indices[np.minimum(np.arange(padded), len(indices) - 1)]
    data = tf.data.Dataset.from_tensor_slices(
        {"index": order, "valid": np.arange(padded) < len(indices)}
    ).batch(batch_size, drop_remainder=True)
    pool = Pool(examples, np.arange(len(examples.ids)), ("image", "mask", "label", "has_mask"))

    def read(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {**_read(pool, row["index"]), "valid": row["valid"]}

    return _read_ahead(data, read)


def _read_ahead(data: tf.data.Dataset, read: Callable[[Any], Batch]) -> Iterator[Batch]:
    """Maps in the background, some batches ahead of the reader, in order."""
    options = tf.data.Options()
    # AUTOTUNE's thread sleeps for up to a minute, and who is done with the iterator waits for it.
    options.autotune.enabled = False
    data = data.map(read, num_parallel_calls=THREADS, deterministic=True).prefetch(2)
    return data.with_options(options).as_numpy_iterator()


def _volumes(examples: Examples, indices: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    for index in indices:
        chosen = np.array([index])
        inside = (slice(None), *map(slice, examples.extents[index]))
        yield {
            **{key: values[inside] for key, values in examples.fetch(chosen).items()},
            "label": examples.labels[chosen].astype(np.int32),
            "has_mask": examples.has_mask[chosen],
            "valid": np.ones(1, bool),
        }


def _order(pool: Pool, name: Stream, seed: int, first: int | tf.Tensor, count: int) -> tf.Tensor:
    """Index into the pool at `count` places, from `first` on, of the endless stream.

    Places are those of a batch, each of which holds `Pool.multiple` examples.
    """
    size = len(pool.indices)
    positions = pool.multiple * first + tf.range(pool.multiple * count, dtype=tf.int64)
    epochs = positions // size
    salt = zlib.crc32(f"{seed}/{name}".encode())
    seeds = tf.stack([tf.fill(tf.shape(epochs), tf.constant(salt, tf.int64)), epochs], axis=1)
    seeds = tf.pad(seeds, [[0, 0], [1, 0]])
    # tf.random.experimental.index_shuffle pads a batch of seeds along the wrong axis (TF 2.21).
    return tf.raw_ops.RandomIndexShuffle(
        index=positions % size, seed=seeds, max_index=tf.constant(size - 1, tf.int64), rounds=4
    )


def _read(pool: Pool, order: tf.Tensor) -> dict[str, tf.Tensor]:
    """The fields of the examples at `order` in its pool."""
    examples = pool.examples
    columns = {
        "label": examples.labels.astype(np.int32),
        "has_mask": examples.has_mask,
        "extent": examples.extents,
    }
    dtypes = examples.dtypes | {key: values.dtype for key, values in columns.items()}

    def fetch(order: np.ndarray) -> list[np.ndarray]:
        indices = pool.indices[order]
        arrays = {**examples.fetch(indices), **{k: v[indices] for k, v in columns.items()}}
        return [arrays[field] for field in pool.fields]

    values = tf.numpy_function(fetch, [order], [dtypes[field] for field in pool.fields])
    batch = dict(zip(pool.fields, values, strict=True))
    for field, value in batch.items():
        shape = columns[field].shape[1:] if field in columns else examples.shapes[field]
        value.set_shape((order.shape[0], *shape))
    return batch
