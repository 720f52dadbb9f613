"""Tests of multimix_jax.runs.record and picture_files: what is written is read again."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from multimix_jax.errors import UsageError
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Checkpoint, Head
from multimix_jax.runs import record
from multimix_jax.runs.picture_files import (
    Gallery,
    Picture,
    shrink,
    shrink_pictures,
    write_examples,
    write_gallery,
)
from tests.finished_runs import write_run


def test_per_image_file(tmp_path):
    rows = [
        {"checkpoint": "best", "id": "a, b", "dice": 0.5},
        {"checkpoint": "best", "id": "c", "label": 1, "probability_ill": 0.25},
    ]
    record.write_csv(tmp_path / "per_image.csv", rows)
    with (tmp_path / "per_image.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["checkpoint", "id", "dice", "label", "probability_ill"]
    assert lines[0] | {"id": "a, b", "dice": "0.5", "label": ""} == lines[0]
    assert lines[1] | {"dice": "", "label": "1", "probability_ill": "0.25"} == lines[1]
    assert [path.name for path in tmp_path.iterdir()] == ["per_image.csv"]


def pictures(count, shape, **fields):
    rng = np.random.default_rng(0)
    mask = lambda: rng.integers(0, 2, (*shape, 1)).astype(bool)
    return [
        Picture(
            id=f"i{n // 3}",
            slice=5 * n,
            image=rng.integers(0, 256, (*shape, 1)).astype(np.uint8),
            truth=mask(),
            masks={Head.MASK: mask(), Head.MASK_SDF: mask()},
            distance=rng.uniform(-1, 1, (*shape, 1)).astype(np.float16),
            **fields,
        )
        for n in range(count)
    ]


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        for field in dataclasses.fields(Picture):
            np.testing.assert_equal(getattr(one, field.name), getattr(other, field.name))


def run_at(path):
    return record.FinishedRun(path, {}, None, LabelSpec(), {}, {})


def test_examples_of_both_checkpoints(tmp_path):
    best = pictures(4, (6, 5))
    last = [dataclasses.replace(one, masks={Head.MASK: ~one.masks[Head.MASK]}) for one in best]
    examples = {(Checkpoint.BEST, "la"): best, (Checkpoint.LAST, "la"): last}
    write_examples(tmp_path, examples, {"chex": np.arange(256)})
    run = run_at(tmp_path)
    assert set(run.examples) == {("best", "la"), ("last", "la")}
    assert_equal(run.examples["best", "la"], best)
    assert_equal(run.examples["last", "la"], last)
    assert list(run.histograms) == ["chex"]
    with np.load(tmp_path / "examples.npz") as file:
        assert file["la/best/slice"].tolist() == [0, 5, 10, 15]
        assert file["la/best/id"].tolist() == ["i0", "i0", "i0", "i1"]


def test_gallery(tmp_path):
    lungs = [dataclasses.replace(one, distance=None) for one in pictures(3, (4, 4))]
    gray = np.full((4, 4, 1), 7, np.uint8)
    chests = [Picture("c0", -1, gray, saliency=gray)]
    write_gallery(tmp_path, Gallery(Checkpoint.LAST, {"jsrt": lungs, "chex": chests}))
    gallery = run_at(tmp_path).gallery
    assert gallery.checkpoint == Checkpoint.LAST
    assert_equal(gallery.sets["jsrt"], lungs)
    assert_equal(gallery.sets["chex"], chests)


@pytest.mark.parametrize("missing", ["checkpoint", "jsrt/slice", "jsrt/image"])
def test_a_gallery_that_lacks_something(tmp_path, missing):
    write_gallery(tmp_path, Gallery(Checkpoint.BEST, {"jsrt": pictures(2, (4, 4))}))
    with np.load(tmp_path / "gallery.npz") as file:
        kept = {name: values for name, values in file.items() if name != missing}
    np.savez(tmp_path / "gallery.npz", **kept)
    with pytest.raises(UsageError, match="gallery.npz is damaged .* --mode=eval"):
        _ = run_at(tmp_path).gallery


def test_pictures_of_several_sizes_are_filled_up(tmp_path):
    write_gallery(
        tmp_path, Gallery(Checkpoint.BEST, {"la": pictures(1, (4, 4)) + pictures(1, (2, 6))})
    )
    first, second = run_at(tmp_path).gallery.sets["la"]
    assert first.image.shape == second.image.shape == (4, 6, 1)
    assert not first.image[:, 4:].any() and not second.truth[2:].any()


def test_shrink():
    array = np.zeros((1, 4, 5, 1), np.uint8)
    array[0, :2, :2, 0] = [[8, 8], [8, 0]]
    array[0, :, 4] = 90
    assert shrink(array, 3)[..., 0].tolist() == [[[6, 0, 90], [0, 0, 90]]]
    masks = array > 0
    shrunk = shrink(masks, 3)
    assert shrunk.dtype == bool
    assert shrunk[..., 0].tolist() == [[[True, False, True], [False, False, True]]]
    assert shrink(array, 5) is array


def test_shrunk_pictures_keep_their_names():
    small = shrink_pictures(pictures(4, (9, 6)), 3)
    assert [(one.id, one.slice) for one in small] == [("i0", 0), ("i0", 5), ("i0", 10), ("i1", 15)]
    assert all(one.image.shape == (3, 2, 1) and one.truth.dtype == bool for one in small)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"class_names": [3], "multi_label": 0}'])
def test_damaged_labels(tmp_path, content):
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(UsageError, match="labels.json is damaged"):
        record.read_labels(tmp_path)


def test_a_config_that_lacks_a_field_is_named(tmp_path):
    path = write_run(tmp_path, "unet", 0)
    config = json.loads((path / "config.json").read_text())
    del config["system"]
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=rf"{path}/config.json: config.system is missing"):
        record.read_run(path)
