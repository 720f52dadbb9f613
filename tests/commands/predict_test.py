"""Tests of multimix_jax.commands.predict."""

import csv
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
from unittest import mock

import jax
import numpy as np
import pytest
from PIL import ExifTags, Image

import launch
from data_pipelines.files.images import resize_image
from multimix_jax import atomic
from multimix_jax.commands import predict
from multimix_jax.evaluation.calibration import Calibration
from multimix_jax.inference.appearance import Appearance
from multimix_jax.inference.images import ImagePrediction
from multimix_jax.inference.predictor import Member, Predictor
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Checkpoint
from multimix_jax.reporting import prediction_files
from multimix_jax.runs import image_predictor, trained_model, workdir
from multimix_jax.runs.trained_model import read_model
from tests.official_formats import write_dicom
from tests.random_runs import write_run, write_runs
from tests.small_runs import ROOT, small_config

SIZE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of random weights, `a`, `b` and `unet`, and a folder of images."""
    folder = tmp_path_factory.mktemp("predict")
    write_runs(folder, SIZE)
    dark = np.random.default_rng(0).integers(0, 20, (9, SIZE, SIZE, 1), np.uint8)
    appearance = dataclasses.asdict(Appearance.of_images(dark, np.full((9, 2), SIZE)))
    atomic.write_json(folder / "a" / workdir.APPEARANCE, appearance)
    rng = np.random.default_rng(0)
    images = folder / "images"
    (images / "ward").mkdir(parents=True)
    draw = lambda *shape: rng.integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(draw(40, 30)).save(images / "one.png")
    Image.fromarray(draw(16, 16, 3)).save(images / "ward" / "two.jpg")
    write_dicom(images / "ward" / "three.dcm", draw(25, 50))
    (images / "notes.txt").write_text("none of them")
    return folder


def test_thresholds_are_averaged_or_asked_for(folder, tmp_path, capsys):
    cool, hot = Calibration(1.0, 0.2), Calibration(4.0, 0.4)
    image = folder / "images" / "one.png"
    command(folder / "a", image, "--out", tmp_path / "plain")
    with mock.patch.object(trained_model, "_calibration", side_effect=[cool, hot, cool]):
        command(folder / "a", image, "--out", tmp_path / "both", "--ensemble", folder / "b")
        assert "from a probability of 0.300 on" in capsys.readouterr().out
        command(folder / "a", image, "--out", tmp_path / "asked", "--threshold", "1.0")
    (asked,), (plain,) = read_rows(tmp_path / "asked"), read_rows(tmp_path / "plain")
    assert asked["class"] == "0"
    assert asked["probability_1"] == plain["probability_1"]
    assert command(folder / "a", image, "--out", tmp_path / "x", "--threshold", "2") == 2
    assert command(folder / "unet", image, "--out", tmp_path / "y", "--threshold", "0.5") == 1
    assert "for two classes, or independent ones" in capsys.readouterr().err
    assert not (tmp_path / "y").exists()


def test_dropout_of_a_network_without(folder, tmp_path, capsys):
    write_run(tmp_path / "run", small_config(folder, **{"model.dropout_rate": 0.0}))
    image = folder / "images" / "one.png"
    assert command(tmp_path / "run", image, "--out", tmp_path / "out", "--dropout", 2) == 1
    assert "run was trained without dropout (config.model.dropout_rate=0.0)" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def command(*arguments):
    with (
        mock.patch.object(sys, "argv", ["predict", *map(str, arguments)]),
        mock.patch.object(predict.machine, "keep_compiled"),
        pytest.raises(SystemExit) as stop,
    ):
        launch.predict()
    if isinstance(stop.value.code, str):  # as Python does at the end
        print(stop.value.code, file=sys.stderr)
        return 1
    return stop.value.code


def read_rows(out):
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder(folder, tmp_path, capsys):
    broken = folder / "images" / "broken.png"
    broken.write_bytes((folder / "images" / "one.png").read_bytes()[:60])
    unfinished = folder / "a" / "checkpoints" / "best" / ".9.tmp" / "state"
    unfinished.mkdir(parents=True)  # as of a run that trains meanwhile
    of_run = lambda: [(path, path.stat().st_mtime_ns) for path in (folder / "a").rglob("*")]
    out, before = tmp_path / "out", of_run()
    assert command(folder / "a", folder / "images", "--out", out) == 0
    broken.unlink()
    assert of_run() == before
    said = capsys.readouterr()
    assert "3 of 4 images" in said.out and "the best weights of a" in said.out
    assert f"not read: {broken}" in said.err
    assert "3 of 3 images look unlike those trained on (one: brighter, of more" in said.err
    assert (out / "unreadable.txt").read_text().startswith(str(broken))
    assert sorted(p.name for p in out.iterdir()) == [
        *("masks", "overlays", "predictions.csv", "saliency", "unreadable.txt")
    ]
    rows = read_rows(out)
    assert [row["image"].rpartition("/")[2] for row in rows] == ["one.png", "three.dcm", "two.jpg"]
    assert list(rows[0]) == [
        *("image", "width", "height", "class", "probability_0", "probability_1", "area_fraction")
    ]
    sizes = {"one": (30, 40), "ward/two": (16, 16), "ward/three": (50, 25)}
    for row in rows:
        name = row["image"].partition("images/")[2].rpartition(".")[0]
        assert (int(row["width"]), int(row["height"])) == sizes[name]
        for kind in ("masks", "overlays", "saliency"):
            with Image.open(out / kind / f"{name}.png") as picture:
                assert picture.mode == ("L" if kind == "masks" else "RGB")
                if kind != "saliency":
                    assert picture.size == sizes[name]
        with Image.open(out / "masks" / f"{name}.png") as picture:
            mask = np.asarray(picture)
        assert set(np.unique(mask)) <= {0, 255}
        assert float(row["area_fraction"]) == pytest.approx((mask > 0).mean(), abs=1e-6)

    model = read_model(folder / "a", Checkpoint.BEST)
    with Image.open(folder / "images" / "one.png") as picture:
        resized = resize_image(np.asarray(picture, np.float32), SIZE, SIZE)
    wanted = jax.jit(model.network.predict)(model.variables, resized[None, ..., None])
    assert float(rows[0]["probability_1"]) == pytest.approx(
        float(wanted["classes"][0, 1]), abs=1e-5
    )
    stretched = Image.fromarray(np.asarray(wanted["mask"][0, ..., 0])).resize((30, 40), 2)
    with Image.open(out / "masks" / "one.png") as picture:
        assert (np.asarray(picture) > 0).mean() == pytest.approx(
            (np.asarray(stretched) >= 0.5).mean(), abs=2 / 1200
        )


def test_masks_of_several_classes_lie_apart(tmp_path):
    """Mask b of the image `a`, and the image `a_b`."""
    masks = np.zeros((4, 6, 2), np.float32)
    masks[:2, :, 0] = 1
    predictions = []
    for name, mask in (("a", masks), ("a_b", masks[::-1]), ("b/a", masks[..., ::-1])):
        path = pathlib.Path(f"{name}.png")
        predictions.append(ImagePrediction(name, path, np.zeros((4, 6)), {"mask": mask}))
    options = prediction_files.OutputOptions(
        LabelSpec(mask_names=("b", "c")), Predictor([Member(None)])
    )
    prediction_files.write_predictions(tmp_path, predictions, options, map)
    rows = read_rows(tmp_path)
    assert rows[0]["area_fraction_b"] == "0.500000" and rows[0]["area_fraction_c"] == "0.000000"
    for written, upper, lower in (("b/a", 255, 0), ("b/a_b", 0, 255), ("c/b/a", 255, 0)):
        with Image.open(tmp_path / "masks" / f"{written}.png") as picture:
            assert np.asarray(picture)[[0, -1], 0].tolist() == [upper, lower]
    assert len(list((tmp_path / "masks").rglob("*.png"))) == 6


@pytest.mark.parametrize("turned", range(1, 9))
def test_masks_lie_on_the_stored_pixels_of_a_turned_image(tmp_path, turned):
    stored = np.zeros((4, 6), np.uint8)
    stored[0, :3] = stored[1, 0] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turned
    path = tmp_path / "a.png"
    Image.fromarray(stored).save(path, exif=exif)
    values = launch.image_files.read(path, 1)[0]
    by = launch.image_files.orientation(path)
    prediction = ImagePrediction(
        "a", path, values, {"mask": values[..., None] / 255}, orientation=by
    )
    options = prediction_files.OutputOptions(LabelSpec(), Predictor([Member(None)]))
    prediction_files.write_predictions(tmp_path / "out", [prediction], options, map)
    with Image.open(tmp_path / "out" / "masks" / "a.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), stored)
    again = launch.image_files.read(tmp_path / "out" / "masks" / "a.png", 1)[0]
    np.testing.assert_array_equal(again, values)
    (row,) = read_rows(tmp_path / "out")
    assert (row["width"], row["height"]) == ("6", "4")


def test_several_networks(folder, tmp_path):
    out = tmp_path / "out"
    one = folder / "images" / "one.png"
    assert command(folder / "a", one, "--out", out, "--ensemble", folder / "b", "--flips") == 0
    (row,) = read_rows(out)
    assert {"spread_0", "spread_1", "disagreement"} < set(row)
    assert (out / "disagreement" / "one.png").exists()


def test_without_a_classifier(folder, tmp_path):
    command(folder / "unet", folder / "images" / "one.png", "--out", tmp_path / "out")
    (row,) = read_rows(tmp_path / "out")
    assert list(row) == ["image", "width", "height", "area_fraction"]
    assert not (tmp_path / "out" / "saliency").exists()


def test_large_films_are_shown_smaller(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_files, "OVERLAY_SIDE", 20)
    command(folder / "a", folder / "images" / "one.png", "--out", tmp_path / "out")
    with Image.open(tmp_path / "out" / "overlays" / "one.png") as picture:
        assert picture.size == (15, 20)
    with Image.open(tmp_path / "out" / "masks" / "one.png") as picture:
        assert picture.size == (30, 40)


def test_more_images_than_a_batch(folder, tmp_path, monkeypatch):
    """An image's answer does not depend on those beside it, nor on dropout of theirs."""
    monkeypatch.setattr(image_predictor, "BATCH", 2)
    images = sorted(
        p for p in (folder / "images").rglob("*") if p.suffix in (".png", ".jpg", ".dcm")
    )
    command(folder / "a", *images, "--out", tmp_path / "three", "--dropout", 2)
    monkeypatch.setattr(image_predictor, "BATCH", 3)
    command(folder / "a", *images, "--out", tmp_path / "two", "--dropout", 2)
    for one, other in zip(read_rows(tmp_path / "three"), read_rows(tmp_path / "two")):
        assert float(one["probability_1"]) == pytest.approx(float(other["probability_1"]), abs=2e-6)


def test_what_is_no_file_or_has_no_name_in_utf_8_costs_nothing_but_itself(folder, tmp_path, capsys):
    images, odd = tmp_path / "images", b"b\xfc.png".decode(errors="surrogateescape")
    images.mkdir()
    (images / odd).write_bytes((folder / "images" / "one.png").read_bytes())
    (images / "loop.png").symlink_to("loop.png")
    (images / "nowhere.png").symlink_to("absent")
    command(folder / "a", images, images / "nowhere.png", "--out", tmp_path / "out")
    said = capsys.readouterr()
    assert "1 of 3 images" in said.out
    for name in ("loop", "nowhere"):
        assert f"not read: {images}/{name}.png is a link that leads to no file;" in said.err
    (row,) = read_rows(tmp_path / "out")
    assert row["image"] == f"{images}/b%FC.png"
    assert (tmp_path / "out" / "masks" / "b%FC.png").exists()


def test_names(tmp_path):
    for name in ("a/x.png", "a/x.jpg", "b/x.png", "y.PNG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    find = lambda *paths: predict.find_files([tmp_path / p for p in paths], launch.image_files)
    assert list(find("b", "y.PNG")) == ["x", "y"]
    assert list(find("a")) == ["x.jpg", "x.png"]
    assert list(find(".")) == ["a/x.jpg", "a/x.png", "b/x.png", "y.PNG"]
    assert list(find("b", "b/x.png")) == ["x"]
    with pytest.raises(predict.UsageError, match="have the same name"):
        find("a/x.png", "b/x.png")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a", "absent.png", "--out", "x"), "absent.png does not exist"),
        (("a", "a/checkpoints", "--out", "x"), "no images here (.png"),
        (("a", "images", "--out", "images/one.png/x"), "cannot be written (Not a directory"),
        (("a", "images", "--out", "a"), "a exists already; name a new folder"),
        (("absent", "images", "--out", "x"), "absent holds no run"),
        (("a", "images", "--out", "x", "--which", "last"), "ask for the 'best' one"),
        (("a", "images", "--out", "x", "--ensemble", "unet"), "unet cannot answer together with"),
    ],
)
def test_faults(folder, capsys, arguments, words):
    flags = ("--out", "--which", "--ensemble", "last")
    before = set(folder.iterdir())
    assert command(*(a if a in flags else folder / a for a in arguments)) == 1
    assert words in capsys.readouterr().err
    assert set(folder.iterdir()) == before


def test_nothing_that_can_be_read(folder, tmp_path, capsys):
    (tmp_path / "x.png").write_bytes(b"")
    assert command(folder / "a", tmp_path / "x.png", "--out", tmp_path / "out") == 1
    assert "0 of 1 images" in capsys.readouterr().out


def test_the_command_needs_no_tensorflow(folder, tmp_path):
    program = """
import sys
import launch
try:
    launch.predict()
finally:
    assert "tensorflow" not in sys.modules
"""
    flags = [folder / "a", folder / "images", "--out", tmp_path / "out", "--saliency", "none"]
    result = subprocess.run(
        [sys.executable, "-c", program, *map(str, flags)],
        **dict(cwd=ROOT, capture_output=True, text=True),
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr
    assert re.search("3 of 3 images", result.stdout)
