"""Tests of data_pipelines.examples and data_pipelines.load."""

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data_pipelines.errors import DataError
from tests.official_formats import box, write_csv, write_image

COUNT = 7


@pytest.fixture
def load(load_set, tmp_path):
    """Loads a folder in which image n is grey n, and every second one has a mask and a label."""
    folder = tmp_path / "data" / "own"
    for n in range(COUNT):
        write_image(folder / "images" / f"i{n}.png", np.full((32, 16), n, np.uint8))
        if n % 2:
            write_image(folder / "masks" / f"i{n}.png", box(32, 16, slice(0, n), slice(0, 16)))
    labels = [(f"i{n}", "ill" if n > 3 else "well", f"p{n // 3}", "test") for n in (1, 3, 5)]
    write_csv(folder / "labels.csv", ["image", "label", "patient", "split"], labels)

    return functools.partial(load_set, data_dir=tmp_path / "data")


def test_tells_who_the_examples_are(load):
    examples = load("folder:own")
    assert examples.name == "folder_own"
    assert examples.label_spec.class_names == ("ill", "well")
    assert len(examples) == COUNT
    assert examples.ids == [f"i{n}" for n in range(COUNT)]
    assert examples.groups.tolist() == ["i0", "p0", "i2", "p1", "i4", "p1", "i6"]
    assert examples.splits.tolist() == ["", "test", "", "test", "", "test", ""]
    np.testing.assert_array_equal(examples.labels, [-1, 1, -1, 1, -1, 0, -1])
    assert examples.labels.dtype == np.int64
    np.testing.assert_array_equal(examples.has_mask, [n % 2 == 1 for n in range(COUNT)])
    assert examples.has_mask.dtype == bool
    np.testing.assert_array_equal(examples.spacing, np.zeros((COUNT, 2), np.float32))
    assert examples.spacing.dtype == np.float32


@pytest.mark.parametrize("in_memory", [True, False])
def test_fetches_in_any_order(load, in_memory):
    bytes_needed = COUNT * 16 * 16 * 2
    examples = load("folder:own", cache_bytes=bytes_needed if in_memory else bytes_needed - 1)
    assert examples.pixels.in_memory == in_memory
    indices = np.array([5, 0, 5, 6])
    fetched = examples.fetch(indices)
    assert sorted(fetched) == ["image", "mask"]
    for pixels in fetched.values():
        assert pixels.dtype == np.uint8
        assert pixels.shape == (4, 16, 16, 1)
    np.testing.assert_array_equal(fetched["image"][:, 3, 3, 0], indices)
    # Image 5 has its mask in 5 of 32 rows: 2.5 of 16, and a half-covered row counts.
    rows = fetched["mask"][..., 0].max(axis=2).sum(axis=1)
    np.testing.assert_array_equal(rows, [3, 0, 3, 0])
    assert fetched["mask"].max() == 1


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_fetches_nothing(load, cache_bytes):
    fetched = load("folder:own", cache_bytes=cache_bytes).fetch(np.array([], np.int64))
    assert fetched["image"].shape == fetched["mask"].shape == (0, 16, 16, 1)


def test_fetches_from_many_threads(load):
    examples = load("folder:own", cache_bytes=0)
    requests = [np.random.default_rng(n).integers(0, COUNT, 5) for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        fetched = pool.map(examples.fetch, requests)
    for indices, pixels in zip(requests, fetched, strict=True):
        np.testing.assert_array_equal(pixels["image"][:, 0, 0, 0], indices)


def test_sizes_are_prepared_side_by_side(load):
    assert load("folder:own", size=16).fetch(np.array([0]))["image"].shape == (1, 16, 16, 1)
    assert load("folder:own", size=32).fetch(np.array([0]))["image"].shape == (1, 32, 32, 1)


@pytest.mark.parametrize("key", ["data_dir", "prepared_dir"])
def test_a_bucket_is_no_folder(load, key):
    with pytest.raises(DataError, match=rf"--config\.{key}=gs://b is .*mount it as a folder"):
        load("jsrt", **{key: "gs://b"})


@pytest.mark.parametrize("name", ["own", "chexpert", "folder:", "jsrt:own", ""])
def test_unknown_name(load, name):
    with pytest.raises(DataError, match="no data set is named .*; use one of chex, jsrt, mcu"):
        load(name)


@pytest.mark.parametrize("name", ["chex", "jsrt", "mcu", "nihx", "folder", "folder:absent"])
def test_missing_data_says_where_to_get_it(load, tmp_path, name):
    folder = name.partition(":")[2] or name
    with pytest.raises(DataError) as error:
        load(name)
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'data' / folder}: no images")
    assert "--config.data_dir" in message
    assert "DATA_DIR/" in message
    assert not (tmp_path / "prepared").exists()


def test_everything_prepared_lies_below_prepared_dir(load, tmp_path):
    load("folder:own")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "prepared"]
    assert [path.name for path in (tmp_path / "prepared").iterdir()] == ["folder_own"]
