"""Tests of multimix_jax.runs.image_predictor."""

import csv
import sys
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import launch
import multimix_jax as mm
from multimix_jax.runs import image_predictor
from tests.random_runs import write_run, write_runs
from tests.small_runs import small_config

SIZE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of random weights, `a`, `b` and `unet`, and two images."""
    folder = tmp_path_factory.mktemp("load")
    write_runs(folder, SIZE)
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.integers(0, 256, shape).astype(np.uint8)
    (folder / "images").mkdir()
    Image.fromarray(draw(40, 30)).save(folder / "images" / "one.png")
    Image.fromarray(draw(25, 50, 3)).save(folder / "images" / "two.png")
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    return mm.load(str(folder / "a"), ensemble=[str(folder / "b")], saliency="gradient", quick=True)


def test_files_are_predicted_as_by_the_command(folder, loaded, tmp_path):
    out = tmp_path / "out"
    argv = ["predict", folder / "a", folder / "images", "--out", out, "--ensemble", folder / "b"]
    with mock.patch.object(sys, "argv", [*map(str, argv)]), pytest.raises(SystemExit) as stop:
        launch.predict()
    assert stop.value.code == 0
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    predictions = loaded.predict(str(folder / "images"))
    assert [one.image for one in predictions] == [row["image"] for row in rows]
    for one, row, shape in zip(predictions, rows, [(40, 30), (25, 50)]):
        assert one.masks.dtype == bool and one.masks.shape == (*shape, 1)
        np.testing.assert_array_equal(one.masks, one.mask_probabilities >= 0.5)
        with Image.open(out / "masks" / row["image"].rpartition("/")[2]) as mask:
            np.testing.assert_array_equal(one.masks[..., 0], np.asarray(mask) > 0)
        assert list(one.classes) == ["0", "1"]
        assert one.named == row["class"]
        for name in one.classes:
            assert f"{one.classes[name]:.6f}" == row[f"probability_{name}"]
            assert f"{one.spread[name]:.6f}" == row[f"spread_{name}"]
        assert f"{one.disagreement[0]:.6f}" == row["disagreement"]
        assert one.saliency.shape == (*shape, 1) and one.saliency.max() > 0


def test_arrays_are_predicted_as_the_files_that_hold_them(folder, loaded):
    paths = sorted((folder / "images").iterdir())
    arrays = [np.asarray(Image.open(path)) for path in paths]
    as_they_are = [arrays[0][..., None].astype(float), arrays[1]]
    of_files, of_arrays = loaded.predict(paths), loaded.predict(as_they_are)
    for one, other in zip(of_files, of_arrays, strict=True):
        np.testing.assert_array_equal(one.masks, other.masks)
        assert one.classes == other.classes
    assert [one.image for one in of_arrays] == ["0", "1"]
    (alone,) = loaded.predict(arrays[0])
    assert alone.masks.shape == (40, 30, 1)
    assert alone.classes == pytest.approx(of_files[0].classes, abs=1e-6)
    assert loaded.predict([]) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((9, 9), 0.5), r"image 0 holds values from 0.5 to 0.5 .*multiply by 255"),
        (np.full((9, 9), -1.0), r"image 0 holds values from -1 to -1 .*from -1\.\.1"),
        (np.full((9, 9), 4000), r"image 0 holds values from 4000 to 4000"),
        (np.full((9, 9), np.nan), r"not finite"),
        (np.ones((9, 9), bool), r"it is a mask"),
        (np.zeros((3, 9, 9), np.uint8), r"image 0 is \[3, 9, 9\], but images are \[H,W\], "),
        (np.zeros((9, 9, 4), np.uint8), r"image 0 is \[9, 9, 4\]"),
        ("absent.png", r"absent\.png"),
    ],
)
def test_what_is_no_image_is_named(loaded, image, message):
    with pytest.raises(mm.UsageError, match=message):
        loaded.predict([image])


@pytest.mark.parametrize(
    "wrong", [{"which": "first"}, {"saliency": "x"}, {"threshold": 1.5}, {"dropout": -1}], ids=str
)
def test_what_cannot_be_asked_for_is_named(folder, wrong):
    with pytest.raises(mm.UsageError, match="=".join(map(str, *wrong.items())).replace("=", "='?")):
        mm.load(folder / "a", **wrong)


def test_a_run_of_windows_and_no_pipelines_are_named(folder, monkeypatch):
    windows = {"window.patch": (16, 16), "window.stride": (16, 16)}
    write_run(folder / "windows", small_config(folder, "unet", size=SIZE, **windows))
    with pytest.raises(mm.UsageError, match="windows predicts volumes, or window by window"):
        mm.load(folder / "windows")
    monkeypatch.setattr(image_predictor, "IMAGE_FILES", "pipelines_that_are_not_here.files")
    with pytest.raises(mm.UsageError, match="images are read by pipelines_that_are_not_here"):
        mm.load(folder / "a")
