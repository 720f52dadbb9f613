"""Tests of data_pipelines.streams."""

import numpy as np
import pytest

from data_pipelines.streams import TrainingStreams
from data_pipelines.tensorflow_alone import tf
from multimix_jax.names import Stream
from tests.official_formats import box, write_csv, write_image
from tests.small_runs import ListedPixels, listed

SEG, CLS_U = Stream.SEG_LABELED, Stream.CLS_UNLABELED
POOL = np.arange(10, 17)  # 7 of 20
BATCH = 4  # does not divide the pool


def streams(pool=POOL, *, batch_size=BATCH, seed=0, **options):
    examples = listed(20, labels=[n % 2 for n in range(20)]).take(pool)
    pools = {SEG: examples, CLS_U: examples}
    return TrainingStreams(pools=pools, batch_size=batch_size, seed=seed, **options)


def batches(start, stop, **options):
    return list(streams(**options).batches(start, stop))


def order(drawn, stream=SEG):
    """Which example stood where: image n is grey n."""
    return np.concatenate([batch[stream]["image"][:, 0, 0, 0] for batch in drawn])


def assert_same(ours, theirs):
    for stream, fields in theirs.items():
        for field, value in fields.items():
            np.testing.assert_array_equal(ours[stream][field], value)


def test_a_batch_holds_its_streams_by_name():
    (batch,) = batches(0, 1)
    assert {stream: sorted(fields) for stream, fields in batch.items()} == {
        SEG: ["image", "mask"],
        CLS_U: ["image", "label"],
    }


def test_an_iterator_is_given_up_at_once(monkeypatch):
    """TensorFlow's tuner would sleep on for up to a minute, and the iterator's end wait for it."""
    begin, begun = tf.data.Dataset.as_numpy_iterator, []

    def note_and_begin(data):
        begun.append(data.options().autotune.enabled)
        return begin(data)

    monkeypatch.setattr(tf.data.Dataset, "as_numpy_iterator", note_and_begin)
    batches(0, 1)
    list(listed(3).batches(2))
    assert begun == [False, False]


def test_a_stream_may_hold_a_multiple():
    """The same endless order, taken in larger steps, by one process or by several."""
    twice = streams(class_multiple=2)
    assert twice.images_per_step == 3 * BATCH
    drawn = list(twice.batches(0, 5))
    classes = order(drawn, CLS_U)
    np.testing.assert_array_equal(classes, order(batches(0, 10), CLS_U))
    np.testing.assert_array_equal(order(drawn), order(batches(0, 5)))
    halves = [batches(0, 5, class_multiple=2, process=(index, 2)) for index in (0, 1)]
    for whole, *parts in zip(drawn, *halves, strict=True):
        joined = np.concatenate([part[CLS_U]["image"] for part in parts])
        np.testing.assert_array_equal(whole[CLS_U]["image"], joined)
    assert twice.ids_of_step(3) == {
        stream: [f"i{x[0, 0, 0]:02d}" for x in drawn[3][stream]["image"]] for stream in (SEG, CLS_U)
    }


def test_shapes_and_types():
    (batch,) = batches(0, 1)
    fields = batch[SEG] | batch[CLS_U]
    for name, dtype, shape in (
        ("image", np.uint8, (BATCH, 16, 16, 1)),
        ("mask", np.uint8, (BATCH, 16, 16, 1)),
        ("label", np.int32, (BATCH,)),
    ):
        assert isinstance(fields[name], np.ndarray)
        assert (fields[name].dtype, fields[name].shape) == (dtype, shape)


def test_the_fields_of_an_image_stay_together():
    for batch in batches(0, 5):
        grey = batch[SEG]["image"][:, 0, 0, 0]
        rows = batch[SEG]["mask"][:, :, 0, 0].sum(axis=1)
        np.testing.assert_array_equal(rows, np.minimum(grey, 16))
        images = batch[CLS_U]
        np.testing.assert_array_equal(images["label"], images["image"][:, 0, 0, 0] % 2)


def test_a_batch_follows_from_its_step_alone():
    for ours, theirs in zip(batches(7, 12), batches(0, 12)[7:], strict=True):
        assert_same(ours, theirs)


def test_a_late_start_reads_only_its_own_images(monkeypatch):
    asked = []
    fetch = ListedPixels.fetch
    monkeypatch.setattr(
        ListedPixels, "fetch", lambda self, places: asked.extend(places) or fetch(self, places)
    )
    batches(10**9, 10**9 + 2)
    assert len(asked) == 2 * 2 * BATCH


@pytest.mark.parametrize("pool", [7, 3, 1], ids=["indivisible", "below-batch", "one"])
def test_every_epoch_is_a_permutation_of_the_pool(pool):
    epochs = 12
    shown = order(batches(0, epochs * pool // BATCH, pool=POOL[:pool]))
    epochs = shown[: len(shown) // pool * pool].reshape(-1, pool)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(POOL[:pool], (len(epochs), 1)))
    assert pool == 1 or len({tuple(epoch) for epoch in epochs}) > 1


def test_an_order_stands_at_any_place_as_often_as_at_another():
    firsts = order(batches(0, 350, batch_size=14))[::7]
    counts = np.bincount(firsts, minlength=17)[10:]
    # 700 epochs: each of 7 images is first about 100 times, standard deviation 9.3.
    assert counts.sum() == 700
    np.testing.assert_array_less(np.abs(counts - 100), 45)


def test_seeds_and_streams_differ_in_order():
    ours = batches(0, 7)
    assert not np.array_equal(order(ours), order(batches(0, 7, seed=1)))
    assert not np.array_equal(order(ours), order(ours, CLS_U))
    np.testing.assert_array_equal(order(ours), order(batches(0, 7)))


def test_the_shares_of_two_processes_are_the_whole():
    shares = [batches(0, 5, process=(index, 2)) for index in (0, 1)]
    for whole, first, second in zip(batches(0, 5), *shares, strict=True):
        for stream, fields in whole.items():
            for field, value in fields.items():
                parts = (first[stream][field], second[stream][field])
                assert len(parts[0]) == len(parts[1]) == BATCH // 2
                np.testing.assert_array_equal(np.concatenate(parts), value)


def test_from_memory_or_from_files_the_batches_are_the_same(load_set, tmp_path):
    folder = tmp_path / "own"
    noise = np.random.default_rng(0).integers(0, 256, (5, 16, 16), np.uint8)
    for n, pixels in enumerate(noise):
        write_image(folder / "images" / f"i{n}.png", pixels)
        write_image(folder / "masks" / f"i{n}.png", box(16, 16, slice(0, n + 1), slice(0, 16)))
    write_csv(folder / "labels.csv", ["image", "label"], [(f"i{n}", "ab"[n % 2]) for n in range(5)])
    both = []
    for cache_bytes in (0, 2**20):
        examples = load_set("folder:own", cache_bytes=cache_bytes)
        assert examples.pixels.in_memory == bool(cache_bytes)
        pools = dict.fromkeys((SEG, CLS_U), examples.take(np.array([4, 0, 2, 1])))
        training = list(TrainingStreams(pools=pools, batch_size=3, seed=0).batches(0, 5))
        evaluation = list(examples.batches(2))
        both.append([*training, *({SEG: batch} for batch in evaluation)])
    for ours, theirs in zip(*both, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10])
def test_evaluation_shows_every_image_once_and_in_order(batch_size):
    examples = listed(20, labels=[n % 3 for n in range(20)], has_mask=[n > 4 for n in range(20)])
    indices = np.array([9, 3, 4, 17, 0, 5, 1])
    evaluated = list(examples.take(indices).batches(batch_size))
    assert len(evaluated) == -(-len(indices) // batch_size)
    for name, dtype, shape in (
        ("image", np.uint8, (16, 16, 1)),
        ("mask", np.uint8, (16, 16, 1)),
        ("label", np.int32, ()),
        ("has_mask", np.bool_, ()),
        ("valid", np.bool_, ()),
    ):
        for batch in evaluated:
            assert (batch[name].dtype, batch[name].shape) == (dtype, (batch_size, *shape))
    joined = {name: np.concatenate([batch[name] for batch in evaluated]) for name in evaluated[0]}
    np.testing.assert_array_equal(joined["valid"], np.arange(len(joined["valid"])) < 7)
    shown = {name: values[joined["valid"]] for name, values in joined.items()}
    np.testing.assert_array_equal(shown["image"][:, 0, 0, 0], indices)
    np.testing.assert_array_equal(shown["mask"][:, :, 0, 0].sum(axis=1), np.minimum(indices, 16))
    np.testing.assert_array_equal(shown["label"], indices % 3)
    np.testing.assert_array_equal(shown["has_mask"], indices > 4)
