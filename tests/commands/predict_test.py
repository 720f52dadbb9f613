"""Tests of multimix_jax.commands.predict."""

import csv
import os
import pathlib
import re
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import dtml, multimix
from data_pipelines.builder import files_below
from data_pipelines.files.images import resize_image
from multimix_jax.commands import predict
from multimix_jax.evaluation.calibration import Calibration
from multimix_jax.inference import predictor, trained_model
from multimix_jax.inference.predictor import make_predictor
from multimix_jax.inference.trained_model import read_model
from multimix_jax.names import Checkpoint
from tests.commands.export_test import write_run
from tests.official_formats import write_dicom
from tests.small_runs import ROOT, small_config

SIZE = 16


def config_of(folder, system="multimix", **fields):
    c = small_config(folder, **{"model.filters": (4, 8), "size": SIZE, **fields})
    with c.unlocked():
        multimix.use_system(c, system)
    return c


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of random weights, `a`, `b` and `unet`, and a folder of images."""
    folder = tmp_path_factory.mktemp("predict")
    for seed, name in enumerate(("a", "b")):
        with mock.patch.object(np.random, "default_rng", lambda _, s=seed: _rng(s)):
            write_run(folder / name, config_of(folder))
    write_run(folder / "unet", config_of(folder, "unet"))
    rng = np.random.default_rng(0)
    images = folder / "images"
    (images / "ward").mkdir(parents=True)
    draw = lambda *shape: rng.integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(draw(40, 30)).save(images / "one.png")
    Image.fromarray(draw(16, 16, 3)).save(images / "ward" / "two.jpg")
    write_dicom(images / "ward" / "three.dcm", draw(25, 50))
    (images / "notes.txt").write_text("none of them")
    return folder


_rng = np.random.default_rng


def answers(folder, *names, **how):
    """What networks say of three images, and what each says by itself."""
    models = [read_model(folder / name, Checkpoint.BEST) for name in names]
    images = _rng(3).integers(0, 256, (3, SIZE, SIZE, 1)).astype(np.uint8)
    keys = jax.random.split(jax.random.key(0), len(images))
    together = make_predictor([model.objective for model in models], **how)
    variables = [model.variables for model in models]
    each = jax.jit(lambda x: [model.objective.predict(model.variables, x) for model in models])
    return jax.jit(together)(variables, images, keys), each, images, (together, variables, keys)


def test_one_network_says_what_it_says(folder):
    found, each, images, _ = answers(folder, "a")
    (wanted,) = each(images)
    assert set(found) == {"mask", "classes", "saliency"}
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, atol=1e-6)
    model = read_model(folder / "a", Checkpoint.BEST)
    saliency = jax.jit(model.objective.saliency)(model.variables, images)
    np.testing.assert_allclose(found["saliency"], saliency, rtol=1e-4, atol=1e-7)


def test_several_answers_are_averaged_and_their_disagreement_told(folder):
    found, each, images, _ = answers(folder, "a", "b", flips=True)
    mirrored = [
        {"mask": answer["mask"][:, :, ::-1], "classes": answer["classes"]}
        for answer in each(images[:, :, ::-1])
    ]
    for name in ("mask", "classes"):
        every = np.stack([answer[name] for answer in [*each(images), *mirrored]])
        np.testing.assert_allclose(found[name], every.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(found[f"{name}_spread"], every.std(axis=0), atol=1e-6)
        if name == "mask":
            masks, together = every >= 0.5, every.mean(axis=0) >= 0.5
    dices = [
        [2 * (m & t).sum() / (m.sum() + t.sum()) for m, t in zip(mask, together)] for mask in masks
    ]
    wanted = 1 - np.mean(dices, axis=0)
    assert wanted.max() > 0
    np.testing.assert_allclose(found["mask_disagreement"][:, 0], wanted, atol=1e-5)


def test_one_that_mirrors_by_itself_gives_two_answers(folder, tmp_path):
    """Its own mean of both would agree with itself."""
    c = config_of(folder)
    with c.unlocked():
        c.objective.mirror = True
    write_run(tmp_path / "run", c)
    found, *_ = answers(tmp_path, "run", flips=True)
    assert (found["classes_spread"] > 0).all() and found["mask_disagreement"].max() > 0
    plain, *_ = answers(tmp_path, "run")
    for name in ("mask", "classes"):
        np.testing.assert_allclose(found[name], plain[name], atol=1e-6)


def test_calibrated(folder, tmp_path, capsys):
    """Each network has its own temperature; thresholds are averaged, or asked for."""
    cool, hot = Calibration(1.0, 0.2), Calibration(4.0, 0.4)
    found, each, images, _ = answers(folder, "a", "b", calibrations=[cool, hot])
    one, other = (answer["classes"] for answer in each(images))
    wanted = (one + jax.nn.softmax(jnp.log(other) / 4)) / 2
    np.testing.assert_allclose(found["classes"], wanted, atol=1e-6)
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


def test_empty_masks_agree():
    none = jnp.zeros((2, 1, 4, 4, 1))
    assert predictor._disagreement(none, none[0]).tolist() == [[0.0]]
    assert predictor._disagreement(none.at[0].set(1.0), none[0] + 0.5).tolist() == [[0.5]]


def test_dropout(folder):
    """Each draw has its own, which belongs to the image and not to its batch."""
    found, _, images, (together, variables, keys) = answers(folder, "a", dropout=3)
    assert (found["classes_spread"] > 0).all()
    alone = jax.jit(together)(variables, images[1:2], keys[1:2])
    np.testing.assert_allclose(alone["mask"], found["mask"][1:2], atol=1e-6)
    others = jax.jit(together)(variables, images, keys[::-1])
    assert not np.allclose(others["mask"], found["mask"], atol=1e-4)


def test_dropout_of_a_network_without(folder, tmp_path, capsys):
    write_run(tmp_path / "run", config_of(folder, **{"model.dropout_rate": 0.0}))
    image = folder / "images" / "one.png"
    assert command(tmp_path / "run", image, "--out", tmp_path / "out", "--dropout", 2) == 1
    assert "run was trained without dropout (config.model.dropout_rate=0.0)" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["smoothgrad", "integrated"])
def test_kinds_of_saliency(folder, kind):
    found, _, images, _ = answers(folder, "a", saliency_kind=kind)
    assert found["saliency"].shape == images.shape
    assert found["saliency"].min() >= 0 and found["saliency"].max() > 0
    plain, *_ = answers(folder, "a")
    assert not np.allclose(found["saliency"], plain["saliency"])
    assert set(answers(folder, "unet", saliency_kind=kind)[0]) == {"mask"}


def test_two_tasks_that_teach_each_other(tmp_path):
    """The mask is that of the first network, as in evaluation."""
    c = dtml.get_config(f"data=jsrt,filters=4,size={SIZE}")
    c.model.convolutions = (1, 1)
    write_run(tmp_path / "run", c)
    found, each, images, _ = answers(tmp_path, "run", dropout=2)
    assert set(found) == {"mask", "mask_spread", "mask_disagreement"}
    (wanted,) = answers(tmp_path, "run")[1](images)
    np.testing.assert_allclose(answers(tmp_path, "run")[0]["mask"], wanted["mask"], atol=1e-6)


def command(*arguments):
    with (
        mock.patch.object(sys, "argv", ["predict", *map(str, arguments)]),
        mock.patch.object(predict.machine, "keep_compiled"),
        pytest.raises(SystemExit) as stop,
    ):
        predict.main()
    return stop.value.code


def read_rows(out):
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder(folder, tmp_path, capsys):
    broken = folder / "images" / "broken.png"
    broken.write_bytes((folder / "images" / "one.png").read_bytes()[:60])
    out = tmp_path / "out"
    assert command(folder / "a", folder / "images", "--out", out) == 0
    broken.unlink()
    said = capsys.readouterr()
    assert "3 of 4 images" in said.out and "the best weights of a" in said.out
    assert f"not read: {broken}" in said.err
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
    wanted = jax.jit(model.objective.predict)(model.variables, resized[None, ..., None])
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
    rows = []
    for name, mask in (("a", masks), ("a_b", masks[::-1]), ("b/a", masks[..., ::-1])):
        item = predict.Item(name, pathlib.Path(f"{name}.png"), np.zeros((4, 6)), {"mask": mask})
        rows.append(predict.write_item(item, tmp_path, predict.Style(mask_names=("b", "c"))))
    assert rows[0]["area_fraction_b"] == "0.500000" and rows[0]["area_fraction_c"] == "0.000000"
    for written, upper, lower in (("b/a", 255, 0), ("b/a_b", 0, 255), ("c/b/a", 255, 0)):
        with Image.open(tmp_path / "masks" / f"{written}.png") as picture:
            assert np.asarray(picture)[[0, -1], 0].tolist() == [upper, lower]
    assert len(list((tmp_path / "masks").rglob("*.png"))) == 6


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
    monkeypatch.setattr(predict, "OVERLAY_SIDE", 20)
    command(folder / "a", folder / "images" / "one.png", "--out", tmp_path / "out")
    with Image.open(tmp_path / "out" / "overlays" / "one.png") as picture:
        assert picture.size == (15, 20)
    with Image.open(tmp_path / "out" / "masks" / "one.png") as picture:
        assert picture.size == (30, 40)


def test_more_images_than_a_batch(folder, tmp_path, monkeypatch):
    """An image's answer does not depend on those beside it, nor on dropout of theirs."""
    monkeypatch.setattr(predict, "BATCH", 2)
    images = sorted(
        p for p in (folder / "images").rglob("*") if p.suffix in (".png", ".jpg", ".dcm")
    )
    command(folder / "a", *images, "--out", tmp_path / "three", "--dropout", 2)
    monkeypatch.setattr(predict, "BATCH", 3)
    command(folder / "a", *images, "--out", tmp_path / "two", "--dropout", 2)
    for one, other in zip(read_rows(tmp_path / "three"), read_rows(tmp_path / "two")):
        assert float(one["probability_1"]) == pytest.approx(float(other["probability_1"]), abs=2e-6)


def test_names(tmp_path):
    for name in ("a/x.png", "a/x.jpg", "b/x.png", "y.PNG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    find = lambda *paths: predict.find_files(
        [tmp_path / p for p in paths], (".png", ".jpg"), files_below
    )
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
from multimix_jax import predict
try:
    predict.main()
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
