"""A set far larger than the memory it may take is read as well after a while as at the start."""

import shutil
import time
import tracemalloc

import numpy as np
import pytest

from data_pipelines.examples import Examples
from data_pipelines.sets.image_set import ImageSetBuilder
from data_pipelines.source import Source
from data_pipelines.streams import TrainingStreams
from multimix_jax.names import Stream
from tests import process

NUMBER = np.dtype(np.uint32)
BATCH = 40
SAMPLES = 20


class Noise(ImageSetBuilder):
    """Images that cannot be compressed; the first four bytes of image and mask are their number."""

    def __init__(self, prepared_dir, *, count, size):
        self.count = count
        self.noise = np.random.default_rng(0).integers(0, 256, 2**24, np.uint8)
        super().__init__(source_dir=__file__, size=size, prepared_dir=str(prepared_dir))

    def fingerprint(self):
        return "drawn"

    def find(self, roots):
        del roots
        names = [f"i{number:06d}" for number in range(self.count)]
        return [Source(id=name, group=name, label=n % 2) for n, name in enumerate(names)]

    def example(self, source):
        number = int(source.id[1:])
        first = number * 65_537 % (self.noise.size - 2 * self.resize.size**2)  # another place each
        pixels = self.noise[first : first + 2 * self.resize.size**2].reshape(2, -1).copy()
        pixels[:, : NUMBER.itemsize] = np.array([number], NUMBER).view(np.uint8)
        image, mask = pixels.reshape(2, self.resize.size, self.resize.size, 1)
        spacing, shape = np.zeros(2, np.float32), np.array(image.shape[:2], np.int32)
        stored = {"image": image, "mask": mask, "has_mask": True, "spacing": spacing}
        return stored | {"source_shape": shape}


def numbers(pixels):
    """Of the images or masks of a batch."""
    return pixels.reshape(len(pixels), -1)[:, : NUMBER.itemsize].copy().view(NUMBER).ravel()


@pytest.fixture
def folder(tmp_path):
    """Removed at once: pytest keeps the folders of the last runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def stream(folder, *, count, size, steps):
    """Prepares, opens and reads a set; returns images/s over the steps, SAMPLES figures."""
    on_disk = 2 * count * size**2
    if shutil.disk_usage(folder).free < 1.2 * on_disk:
        pytest.skip(f"takes {1.2 * on_disk / 1e9:.0f} GB of disk; free some, or set --basetemp")
    builder = Noise(folder, count=count, size=size)
    builder.prepare()
    before = process.memory()
    tracemalloc.start()
    examples = Examples.open(builder, cache_bytes=2**20)
    _, index_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not examples.pixels.in_memory
    opened = process.memory() - before

    pools = dict.fromkeys((Stream.SEG_LABELED, Stream.CLS_UNLABELED), examples)
    streams = TrainingStreams(pools=pools, batch_size=BATCH, seed=0)
    shown, memory, rates = [], [], []
    with process.only_new_garbage():
        begun = time.perf_counter()
        for step, batch in enumerate(streams.batches(0, steps), 1):
            labeled, unlabeled = batch["seg/labeled"], batch["cls/unlabeled"]
            shown.append(numbers(labeled["image"]))
            np.testing.assert_array_equal(shown[-1], numbers(labeled["mask"]))
            np.testing.assert_array_equal(numbers(unlabeled["image"]) % 2, unlabeled["label"])
            if step % (steps // SAMPLES) == 0:
                images = streams.images_per_step * (steps // SAMPLES)
                rates.append(images / (time.perf_counter() - begun))
                memory.append(process.memory())
                begun = time.perf_counter()
    np.testing.assert_array_equal(np.sort(np.concatenate(shown)[:count]), np.arange(count))

    third, last = (np.median(quarter) for quarter in np.split(np.array(memory), 4)[2:])
    of_batch = 3 * BATCH * size**2
    print(
        f"{count} images at {size}, {on_disk / 1e9:.3f} GB; opening: {index_peak / count:.0f} "
        f"bytes an example at most, {opened / 1e6:.1f} MB kept; reading: {memory[0] / 1e6:.0f} MB "
        f"at first, {third / 1e6:.0f} and {last / 1e6:.0f} MB in the last two quarters"
    )
    assert index_peak < 2000 * count
    # How far the reader is ahead varies by some batches.
    assert last - third < 8 * of_batch
    return rates


@process.on_linux
def test_a_set_that_is_not_held_in_memory_takes_no_more_of_it(folder):
    stream(folder, count=1000, size=32, steps=80)


@process.on_linux
@pytest.mark.slow
def test_a_set_larger_than_the_machine_s_memory(folder):
    rates = stream(folder, count=200_000, size=256, steps=5000)
    first, *_, last = (np.median(quarter) for quarter in np.split(np.array(rates), 4))
    print(f"{first:.0f} images/s in the first quarter, {last:.0f} in the last")
    assert last > 0.7 * first
