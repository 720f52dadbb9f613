"""tf.data: training batches that are functions of (seed, step), and evaluation batches."""

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from data_pipelines.examples import Examples
from data_pipelines.tensorflow_alone import tf
from data_pipelines.threads import THREADS
from multimix_jax.names import Stream, Task

Batch = dict[str, Any]

# What a training batch holds of each stream, and `extent` of volumes. The unlabelled stream's
# label, if any is known, feeds a monitor of the pseudo-labels and no loss.
FIELDS = {
    Stream.SEG_LABELED: ("image", "mask"),
    Stream.SEG_UNLABELED: ("image",),
    Stream.CLS_LABELED: ("image", "label"),
    Stream.CLS_UNLABELED: ("image", "label"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingStreams:
    """Pools of examples that training batches are drawn from, endlessly.

    Every epoch of a stream is a permutation of its pool that follows from (seed, epoch, name), so
    the batch of a step is known without the ones before: a resumed run starts at its step at once
    and gets just the batches it would have got.

    Attributes:
      pools: by stream, none of them empty.
      batch_size: images per stream, over all processes; streams of classes have `class_multiple`
        times as many.
      seed: of the order.
      process: which of how many processes this is; it gets its share of each batch.
    """

    pools: Mapping[Stream, Examples]
    batch_size: int
    seed: int
    class_multiple: int = 1
    process: tuple[int, int] = (0, 1)

    @property
    def images_per_step(self) -> int:
        """Of all streams and processes."""
        return self.batch_size * sum(map(self._multiple, self.pools))

    @property
    def digest(self) -> str:
        """Changes when the pools, and so the order of the training images, do."""
        listed = json.dumps({name: pool.ids for name, pool in self.pools.items()})
        return hashlib.sha256(listed.encode()).hexdigest()[:16]

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """NumPy batches of steps `start` to `stop` - 1, by stream, read ahead in the background.

        `image` and `mask` are as in `Examples.fetch`, `label` int32 [b], `extent` int32 [b, dims].
        """
        index, count = self.process
        share = self.batch_size // count

        def batch_of(step: tf.Tensor) -> Batch:
            first = step * self.batch_size + index * share
            batch: Batch = {}
            for stream, pool in self.pools.items():
                fields = list(FIELDS[stream]) + ["extent"] * (pool.affines is not None)
                if stream == Stream.CLS_UNLABELED and not pool.known(Task.CLS).any():
                    fields.remove("label")  # no truth, no figure
                batch[stream] = _read(pool, self._order(stream, first, share), tuple(fields))
            return batch

        return _read_ahead(tf.data.Dataset.range(start, stop), batch_of)

    def ids_of_step(self, step: int) -> dict[Stream, list[str]]:
        """Ids of the examples of a step, over all processes, by stream."""
        first = step * self.batch_size
        return {
            stream: pool.take(self._order(stream, first, self.batch_size).numpy()).ids
            for stream, pool in self.pools.items()
        }

    def _multiple(self, stream: Stream) -> int:
        return self.class_multiple if stream.task == Task.CLS else 1

    def _order(self, stream: Stream, first: int | tf.Tensor, count: int) -> tf.Tensor:
        """Index into a pool at `count` places, from `first` on, of its endless stream.

        Places are those of a batch, each of which holds as many examples as the stream's multiple.
        """
        size, multiple = len(self.pools[stream]), self._multiple(stream)
        positions = multiple * first + tf.range(multiple * count, dtype=tf.int64)
        epochs = positions // size
        salt = zlib.crc32(f"{self.seed}/{stream}".encode())
        seeds = tf.stack([tf.fill(tf.shape(epochs), tf.constant(salt, tf.int64)), epochs], axis=1)
        seeds = tf.pad(seeds, [[0, 0], [1, 0]])
        # tf.random.experimental.index_shuffle pads a batch of seeds along the wrong axis (TF 2.21).
        return tf.raw_ops.RandomIndexShuffle(
            index=positions % size, seed=seeds, max_index=tf.constant(size - 1, tf.int64), rounds=4
        )


def eval_batches(examples: Examples, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """All examples once, in order; the last batch is filled up so that none is lost.

    `image`, `mask` and `label` are as in training, `has_mask` is bool [B], and so is `valid`, False
    for the filling. Volumes come one by one, each at its own size.
    """
    if examples.affines is not None:
        return _volumes(examples)
    count = len(examples)
    places = np.arange(-(-count // batch_size) * batch_size)
    # The filling repeats the last example; `valid` takes it out of every figure.
    rows = {"index": np.minimum(places, count - 1), "valid": places < count}
    data = tf.data.Dataset.from_tensor_slices(rows).batch(batch_size, drop_remainder=True)

    def read(row: dict[str, tf.Tensor]) -> Batch:
        fields = ("image", "mask", "label", "has_mask")
        return {**_read(examples, row["index"], fields), "valid": row["valid"]}

    return _read_ahead(data, read)


def _read_ahead(data: tf.data.Dataset, read: Callable[[Any], Batch]) -> Iterator[Batch]:
    """Maps in the background, some batches ahead of the reader, in order."""
    options = tf.data.Options()
    # AUTOTUNE's thread sleeps for up to a minute, and who is done with the iterator waits for it.
    options.autotune.enabled = False
    data = data.map(read, num_parallel_calls=THREADS, deterministic=True).prefetch(2)
    return data.with_options(options).as_numpy_iterator()


def _volumes(examples: Examples) -> Iterator[dict[str, np.ndarray]]:
    for index, extent in enumerate(examples.extents):
        inside = (slice(None), *map(slice, extent))
        batch = examples.batch(np.array([index]))
        cropped = {key: batch[key][inside] for key in ("image", "mask")}
        yield {**batch, **cropped, "valid": np.ones(1, bool)}


def _read(examples: Examples, order: tf.Tensor, fields: tuple[str, ...]) -> dict[str, tf.Tensor]:
    """Fields of the examples at `order`."""

    def fetch(indices: np.ndarray) -> list[np.ndarray]:
        batch = examples.batch(indices)
        return [batch[field] for field in fields]

    like = fetch(np.array([], np.int64))
    values = tf.numpy_function(fetch, [order], [array.dtype for array in like])
    for value, array in zip(values, like, strict=True):
        value.set_shape((order.shape[0], *array.shape[1:]))
    return dict(zip(fields, values, strict=True))
