"""Own images from start to end: colour, not square, three classes, two masks, most unlabelled."""

import csv
import json
import shutil
import sys
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import launch
from configs import common, folder
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Checkpoint
from multimix_jax.reporting import page
from multimix_jax.runs.record import read_run
from multimix_jax.runs.trained_model import read_labels, read_model
from tests.official_formats import box, write_csv, write_image
from tests.small_runs import NETWORK, launch_main, prepare_phantoms

HEIGHT, WIDTH = 24, 40


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Photographs of fruit, say: what is red, green or blue; where it lies, and its stalk."""
    root = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    rows = []
    for n in range(30):
        kind = n % 3
        pixels = rng.integers(0, 60, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        pixels[6:18, 10:30, kind] = 220
        pixels[2:6, 18:22] = 255
        write_image(root / "pictures" / f"p{n:02d}.png", pixels)
        if n < 20:
            fruit = box(HEIGHT, WIDTH, slice(6, 18), slice(10, 30))
            write_image(root / "outlines" / "fruit" / f"p{n:02d}.png", fruit)
        if n < 18:
            stalk = box(HEIGHT, WIDTH, slice(2, 6), slice(18, 22))
            write_image(root / "outlines" / "stalk" / f"p{n:02d}.png", stalk)
        if n < 24:
            rows.append((f"p{n:02d}", ("red", "green", "blue")[kind]))
    write_csv(root / "kinds.csv", ("image", "label"), rows)
    facts = [(name, int(kind == "red"), int(n % 2)) for n, (name, kind) in enumerate(rows)]
    write_csv(root / "facts.csv", ("image", "red", "odd"), facts)
    for name in ("labelled", "leafy"):
        (root / name).mkdir()
        (root / name / "images").symlink_to(root / "pictures")
    shutil.copy(root / "kinds.csv", root / "labelled" / "labels.csv")
    shutil.copytree(root / "outlines" / "fruit", root / "leafy" / "masks" / "fruit")
    shutil.copytree(root / "outlines" / "stalk", root / "leafy" / "masks" / "leaf")
    return root


def config_of(own, table="kinds", method="multimix", **fields):
    c = folder.get_config(
        f"images={own}/pictures,masks={own}/outlines,labels={own}/{table}.csv,size=32,fit=pad,"
        f"channels=3{method and f',method={method}'}"
    )
    c.prepared_dir, c.data_dir = str(own / "prepared"), str(own)
    c.steps = c.eval_every = c.checkpoint_every = 4
    c.batch_size, c.eval_batch_size = 4, 4
    c.model.filters = NETWORK
    c.update_from_flattened_dict(fields)
    return c.lock()


@pytest.fixture(scope="module")
def run(own):
    launch_main(config_of(own), own / "run")
    return own / "run"


def test_the_config_is_kept_as_it_was_asked_for(own, run):
    assert json.loads((run / "config.json").read_text()) == json.loads(config_of(own).to_json())


def test_classes_and_masks_are_counted(run):
    results = json.loads((run / "results.json").read_text())["best"]["folder"]
    assert {"dice", "dice_fruit", "dice_stalk", "f1_red", "f1_green", "f1_blue"} < set(results)
    mean = (results["dice_fruit"]["mean"] + results["dice_stalk"]["mean"]) / 2
    assert results["dice"]["mean"] == pytest.approx(mean)


def test_started_again_it_is_finished(own, run, capsys):
    launch_main(config_of(own), run)
    assert "is finished" in capsys.readouterr().out


def test_names_and_ids_are_kept(run):
    assert read_labels(run) == LabelSpec(
        ("blue", "green", "red"), mask_names=("fruit", "stalk"), components=(1, 0)
    )
    ids = json.loads((run / "ids.json").read_text())["validation"]
    assert list(ids) == ["seg/folder", "cls/folder"]
    card = " ".join((run / "README.md").read_text().split())
    for name, held in ids.items():
        assert held and f"| validation, {name} | {len(held)} |" in card


@pytest.fixture(scope="module")
def independent(own):
    """A run of the recipe on independent classes."""
    launch_main(config_of(own, "facts", ""), own / "independent")
    return own / "independent"


def test_the_recipe_takes_own_images(independent):
    """Findings are independent, and as many parts are kept as each mask has."""
    held = read_run(independent)
    assert (held.config["method"], held.config["keep_largest"]) == ("consistency", -1)
    assert held.components == {
        *("classifier", "decoder", "pseudo-labels"),
        *("spatial augmentation", "intensity augmentation"),
    }
    assert {"dice_stalk", "f1_odd"} < set(held.results["best"]["folder"])


def test_classes_from_a_set_without_masks(own, tmp_path):
    sets = dict(cls_data="folder:labelled", test_data="folder=test,folder:labelled=test")
    launch_main(config_of(own, **sets), tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())["best"]
    assert "dice_stalk" in results["folder"] and "dice" not in results["folder:labelled"]
    assert "f1_red" in results["folder:labelled"]


def test_other_masks_are_not_evaluated(own, run):
    tests = "folder=test,folder:leafy=all"
    with pytest.raises(SystemExit, match="predicts masks of fruit, stalk, but folder:leafy has"):
        launch_main(config_of(own, test_data=tests), run, "eval")


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_other_files_are_noticed_and_moved_ones_are_not(own, run, tmp_path, mode, capsys):
    shutil.copytree(own / "outlines", tmp_path / "outlines")
    masks = {"folder.masks": str(tmp_path / "outlines")}
    if mode == "train":
        launch_main(config_of(own, **masks), run)
        assert "is finished" in capsys.readouterr().out
    stalk = box(HEIGHT, WIDTH, slice(1, 7), slice(3, 22))  # by another hand
    write_image(tmp_path / "outlines" / "stalk" / "p00.png", stalk)
    with pytest.raises(SystemExit, match="run of other files than those of config.folder"):
        launch_main(config_of(own, **masks), run, mode)


def predicted(run, image, out, *flags):
    """The row of the table of one image."""
    with (
        mock.patch.object(
            sys, "argv", ["predict", str(run), str(image), "--out", str(out), *flags]
        ),
        pytest.raises(SystemExit) as stop,
    ):
        launch.predict()
    assert stop.value.code == 0
    with (out / "predictions.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    return row


def test_independent_classes(own, independent, tmp_path):
    run = independent
    assert read_labels(run) == LabelSpec(
        ("red", "odd"), True, ("fruit", "stalk"), components=(1, 0)
    )
    results = json.loads((run / "results.json").read_text())
    best = results["best"]["folder"]
    assert {"accuracy", "auroc", "auroc_red", "auroc_odd", "f1_red", "ece_calibrated"} < set(best)
    assert "accuracy_at_validation_threshold" not in best
    assert best["auroc"]["mean"] == pytest.approx(
        (best["auroc_red"]["mean"] + best["auroc_odd"]["mean"]) / 2
    )
    held = read_run(run)
    tested = held.images[Checkpoint.BEST, "folder"]
    assert tested.labels.shape == tested.probabilities.shape and tested.labels.shape[1] == 2
    assert np.nanmean(tested.correct) == pytest.approx(best["accuracy"]["mean"])
    assert not np.allclose(tested.probabilities.sum(1), 1)  # each by itself
    page.write(held, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert ", odd" in text and "not odd" in text  # a curve; the label of a card

    image = own / "pictures" / "p29.png"
    row = predicted(run, image, tmp_path / "all", "--threshold=0")
    assert row["class"] == "red|odd"
    assert predicted(run, image, tmp_path / "none", "--threshold=1")["class"] == ""
    model = read_model(run, Checkpoint.BEST)
    assert model.labels.multi_label and model.calibration.multi_label


def test_predictions_have_the_size_of_the_image(own, run, tmp_path):
    model = read_model(run, Checkpoint.BEST)
    assert (model.spec.data.fit, model.channels) == ("pad", 3)
    image, out = own / "pictures" / "p29.png", tmp_path / "out"
    row = predicted(run, image, out)
    assert row["class"] in model.labels.class_names
    assert {"area_fraction_fruit", "area_fraction_stalk"} < set(row)
    for name in model.labels.mask_names:
        with Image.open(out / "masks" / name / "p29.png") as mask:
            assert mask.size == (WIDTH, HEIGHT)
    with Image.open(out / "overlays" / "p29.png") as overlay:
        assert len(set(np.asarray(overlay)[12, 20].tolist())) > 1  # in colour


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "needs a folder of images"),
        ("images=x", "and masks or labels of some of"),
        ("images=x,masks=y,method=enc", "method=enc learns from labels; add labels="),
        ("images=x,labels=y,method=unet", "method=unet learns from masks; add masks="),
        ("images=x,labels=y,method=unknown", "method='unknown' is unknown"),
    ],
)
def test_arguments_that_cannot_be(arguments, words):
    with pytest.raises(common.ConfigError, match=words):
        folder.get_config(arguments)


def test_the_fullest_method_that_the_data_allow():
    system = lambda arguments: folder.get_config(f"images=x,{arguments}").system
    assert system("masks=y,labels=z") == "consistency"
    assert system("masks=y") == "unet_augmented"
    assert system("labels=z") == "consistency_classes"
    assert system("masks=y,labels=z,method=multimix") == "multimix"


@pytest.mark.parametrize("method", ["", ",method=multimix"])
def test_what_may_be_set_of_any_method(method):
    c = folder.get_config(f"images=x,masks=y,labels=z,size=64,steps=80{method}")
    assert (c.size, c.steps, c.keep_largest) == (64, 80, -1)
    assert c.eval_every == (100 if method else 20)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"folder.masks": "absent"}, "--config.folder.masks=absent is not a folder"),
        ({"model.num_classes": 2}, "the model has 2 classes, but the images have 3"),
        ({"model.mask_channels": 1}, r"predicts 1 masks, but folder has 2 \(fruit, stalk\)"),
        ({"model.in_channels": 1, "seg_data": "folder", "size": 40}, "size=40"),
        (
            {"test_data": "folder=test,folder:leafy=all"},
            "masks of fruit, stalk, but folder:leafy has those of fruit, leaf; name the folders",
        ),
        (
            {"test_data": "folder=test,phantom_seg_b=all"},
            "takes images of 3 channels, but those of phantom_seg_b have 1; set config.model.in_ch",
        ),
    ],
)
def test_faults(own, tmp_path, fields, words):
    if "phantom" in str(fields):
        prepare_phantoms(own / "prepared")
    with pytest.raises(SystemExit, match=words):
        launch_main(config_of(own, **fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()
