"""Tests of launch.py and configs: whole runs, as a user starts them."""

import csv
import dataclasses
import importlib
import inspect
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import time
from unittest import mock

import numpy as np
import pytest
from absl import flags
from flax.traverse_util import flatten_dict
from PIL import Image

import data_pipelines
import launch
from configs import common, consistency, dtml, multimix
from data_pipelines import arguments
from data_pipelines.arguments import with_packaged
from data_pipelines.streams import TrainingStreams
from multimix_jax.inference.windows import Windows
from multimix_jax.models import MultiMix
from multimix_jax.names import Checkpoint, Head
from multimix_jax.objectives import ConsistencyObjective, DtmlObjective, MultiMixObjective
from multimix_jax.reporting import page
from multimix_jax.runs import run
from multimix_jax.runs.record import read_appearance, read_run
from multimix_jax.training import optimizer, preemption
from tests.official_formats import box, write_csv, write_image, write_nih
from tests.small_runs import (
    assert_same_runs,
    first_state,
    launch_flags,
    launch_main,
    small_config,
    start_launch,
    wait_for_lines,
)

CONFIGS = sorted(
    path.stem
    for path in pathlib.Path(common.__file__).parent.glob("*.py")
    if path.stem not in ("__init__", "common")
)
TESTS = {"phantom_seg_a": 5, "phantom_seg_b": 4, "phantom_cls_a": 7, "phantom_cls_b": 6}
STEPS = 12


@pytest.fixture(scope="module")
def config(prepared):
    return small_config(prepared, steps=STEPS, eval_every=4, checkpoint_every=5)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    launch_main(config, workdir)
    return workdir


def read(path):
    return json.loads(path.read_text())


def contents(folder):
    """Every file below a folder with its bytes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_keeps_what_was_asked_for_and_which_images_it_used(whole, config):
    assert read(whole / "config.json") == json.loads(json.dumps(config.to_dict()))
    ids = read(whole / "ids.json")
    assert {name: len(found) for name, found in ids["train"].items()} == {
        "seg/labeled": 5,
        "seg/unlabeled": 9,
        "cls/labeled": 10,
        "cls/unlabeled": 14,
    }
    assert {name: len(found) for name, found in ids["test"].items()} == TESTS
    trained = {f"seg/{i}" for kind in ("labeled", "unlabeled") for i in ids["train"][f"seg/{kind}"]}
    for held in (ids["validation"]["seg/phantom_seg_a"], ids["test"]["phantom_seg_a"]):
        assert held and not trained & {f"seg/{i}" for i in held}


def test_a_run_logs_every_step(whole):
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [*range(1, STEPS + 1)]
    validations = [line for line in lines if line["split"] == "validation"]
    assert [line["step"] for line in validations] == [4, 8, 12]
    assert {"score", "phantom_seg_a/dice", "phantom_cls_a/auroc"} <= set(validations[0])
    assert {"loss", "grad_norm", "param_norm", "seg/dice", "cls/cross_entropy"} <= set(lines[0])
    assert np.isfinite(
        [value for line in lines for value in line.values() if value != line["split"]]
    ).all()
    best = max(validations, key=lambda line: line["score"])["step"]
    assert read(whole / "results.json")["run"][Checkpoint.BEST]["step"] == best


def test_a_run_reports_on_every_test_set(whole):
    results = read(whole / "results.json")
    assert sorted(results) == ["baseline", "best", "last", "run"]
    assert results["run"][Checkpoint.LAST]["step"] == results["run"]["steps"] == STEPS
    assert results["run"]["seconds"] > 0
    for which in (Checkpoint.BEST, Checkpoint.LAST):
        assert 0 <= results["run"][which]["threshold"] <= 1.0001
        assert 0.2 < results["run"][which]["temperature"] < 20.1
        assert set(results[which]) == set(TESTS)
        for name, count in TESTS.items():
            summary = results[which][name]
            shown = {"dice", "hd", "assd"} if "seg" in name else {"accuracy", "auroc", "ece"}
            assert shown <= set(summary)
            chosen = {"accuracy_at_validation_threshold", "ece_calibrated"}
            assert chosen < set(summary) or "seg" in name
            for entry in summary.values():
                assert entry["n"] == count
                assert np.isfinite([entry["mean"], *entry["ci95"]]).all()
                assert ("std" in entry) == ("seg" in name)


def test_a_run_has_a_model_card(whole):
    _, front, text = (whole / "README.md").read_text().split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in front.strip().splitlines())
    assert {"multimix", "image-segmentation"} < set(json.loads(fields["tags"]))
    results, ids = read(whole / "results.json"), read(whole / "ids.json")
    text = re.sub(" +", " ", text)
    assert f"| train, seg/labeled | {len(ids['train']['seg/labeled'])} |" in text
    for name in TESTS:
        metric = "dice" if "seg" in name else "auroc"
        entry = results[Checkpoint.BEST][name][metric]
        (line,) = [line for line in text.splitlines() if line.startswith(f"| best | {name} |")]
        assert f"{metric} {entry['mean']:.3f} [{entry['ci95'][0]:.3f}" in line
    assert f"temperature {results['run'][Checkpoint.BEST]['temperature']:.3f}, threshold" in text
    assert "not for clinical use" in text


def test_a_run_reports_on_every_image(whole):
    with (whole / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * sum(TESTS.values())
    assert list(rows[0])[:3] == ["checkpoint", "data_set", "id"]
    results = read(whole / "results.json")
    for which in (Checkpoint.BEST, Checkpoint.LAST):
        dice = [float(row["dice"]) for row in rows if row["checkpoint"] == which and row["dice"]]
        means = [
            results[which][name]["dice"]["mean"] for name in ("phantom_seg_a", "phantom_seg_b")
        ]
        assert np.mean(dice) == pytest.approx((5 * means[0] + 4 * means[1]) / 9)


def test_a_run_reports_the_baseline_answer(whole, config):
    """The mean of the masks it was given, and the share of each class among its labels."""
    results = read(whole / "results.json")["baseline"]
    assert set(results) == set(TESTS)
    auroc = results["phantom_cls_a"]["auroc"]
    assert (auroc["mean"], auroc["ci95"]) == (0.5, [0.5, 0.5])
    given, tested = (
        np.load(whole / "examples.npz")[f"phantom_seg_a/best/{name}"] for name in ("truth", "id")
    )
    assert given.shape == (5, 32, 32, 1)
    ids = read(whole / "ids.json")
    assert list(tested) == ids["test"]["phantom_seg_a"]
    load = lambda name: data_pipelines.load(
        name, data_dir="", prepared_dir=config.prepared_dir, size=32
    )
    examples = load("phantom_seg_a")
    labeled = np.flatnonzero(np.isin(examples.ids, ids["train"]["seg/labeled"]))
    mean = examples.fetch(labeled)["mask"].mean(axis=0) >= 0.5
    dice = [2 * (mean & truth).sum() / (mean.sum() + truth.sum()) for truth in given]
    assert results["phantom_seg_a"]["dice"]["mean"] == pytest.approx(np.mean(dice))


def test_a_run_keeps_examples(whole):
    with np.load(whole / "examples.npz") as examples:
        for name, count in TESTS.items():
            assert examples[f"{name}/histogram"].sum() == count * 32 * 32
        for which in Checkpoint:
            for kind in ("image", "truth", "mask"):
                assert examples[f"phantom_seg_b/{which}/{kind}"].shape == (4, 32, 32, 1)
        assert "phantom_cls_a/best/image" not in examples


def test_a_run_notes_how_its_images_look(whole, config):
    appearance = read_appearance(whole)
    where = dict(data_dir="", prepared_dir=config.prepared_dir, size=32)
    for name in ("phantom_seg_a", "phantom_cls_a"):
        examples = data_pipelines.load(name, **where)
        images = examples.fetch(np.arange(len(examples)))["image"]
        assert np.mean([bool(s) for s in appearance.unlike(images, examples.source_shapes)]) < 0.1
        assert all(appearance.unlike(255 - images, examples.source_shapes))


def test_a_run_keeps_pictures_to_look_through(whole, tmp_path):
    run = read_run(whole)
    assert run.gallery.checkpoint == Checkpoint.BEST
    assert {name: len(shown) for name, shown in run.gallery.sets.items()} == TESTS
    for name, shown in run.gallery.sets.items():
        assert all(Head.MASK in one.masks and one.saliency is not None for one in shown)
        assert all((one.truth is not None) == ("seg" in name) for one in shown)
    shown = run.gallery.sets["phantom_seg_a"]
    images = run.images[Checkpoint.BEST, "phantom_seg_a"]
    dices = [images.columns["dice"][images.ids.index(id_)] for id_ in [one.id for one in shown]]
    assert dices == sorted(dices)
    truths = np.stack([one.truth for one in shown])
    masks = np.stack([one.masks[Head.MASK] for one in shown])
    both = (truths & masks).sum(axis=(1, 2, 3))
    each = (truths.sum(axis=(1, 2, 3)), masks.sum(axis=(1, 2, 3)))
    np.testing.assert_allclose(2 * both / sum(each), dices, rtol=1e-6)
    page.write(run, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().count("image/webp") == 4 * (5 + 4) + 3 * (7 + 6)


def test_a_run_draws(whole):
    figures = sorted(path.name for path in (whole / "figures").iterdir())
    assert figures == sorted(
        # One for both, since the last weights are the best.
        [*(f"best_and_last_{name}.png" for name in TESTS), "views.png"]
    )
    for name in figures:
        with Image.open(whole / "figures" / name) as image:
            assert min(image.size) > 200
            assert np.asarray(image).std() > 10


def test_a_finished_run_is_not_trained_again(whole, config, capsys):
    before = contents(whole)
    launch_main(config, whole)
    out = capsys.readouterr().out
    assert out.startswith(f"{whole} is finished; its results:\n")
    assert "Segmentation" in out
    assert "phantom_cls_b" in out
    assert contents(whole) == before


def test_a_finished_run_is_evaluated_again(whole, config, capsys):
    before = read(whole / "results.json")
    (whole / "results.json").unlink()
    launch_main(config, whole, "eval")
    assert "Classification" in capsys.readouterr().out
    assert read(whole / "results.json") == before


def test_equal_checkpoints_are_evaluated_once_and_others_each(whole, config, tmp_path, monkeypatch):
    workdir = shutil.copytree(whole, tmp_path / "run")
    before = read(workdir / "results.json")
    assert before["run"][Checkpoint.BEST]["step"] == before["run"][Checkpoint.LAST]["step"] == STEPS
    evaluated = []
    predict_set = run.predict_set

    def noted(predict, variables, eval_set, **kwargs):
        evaluated.append(eval_set.name)
        return predict_set(predict, variables, eval_set, **kwargs)

    monkeypatch.setattr(run, "predict_set", noted)
    launch_main(config, workdir, "eval")
    # The set to calibrate on; the test sets, and these again for the baseline.
    assert evaluated == ["phantom_cls_a", *TESTS, *TESTS]
    figures = {path.name for path in (workdir / "figures").iterdir()}
    assert figures == {"views.png", *(f"best_and_last_{name}.png" for name in TESTS)}

    evaluated.clear()
    shutil.rmtree(workdir / "checkpoints" / Checkpoint.BEST / str(STEPS))
    shutil.copytree(
        workdir / "checkpoints" / Checkpoint.LAST / "10",
        workdir / "checkpoints" / Checkpoint.BEST / "10",
    )
    launch_main(config, workdir, "eval")
    assert evaluated == [*2 * ["phantom_cls_a", *TESTS], *TESTS]
    after = read(workdir / "results.json")
    assert after["run"][Checkpoint.BEST]["step"] == 10
    assert after[Checkpoint.BEST] != after[Checkpoint.LAST] == before[Checkpoint.LAST]


@pytest.mark.parametrize("exists", [True, False])
def test_nothing_to_evaluate(config, tmp_path, exists):
    workdir = tmp_path if exists else tmp_path / "new"
    message = refusal(config, workdir, "eval")
    assert f"--workdir={workdir} holds no run; train one with --mode=train" in message
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def like(config, whole):
    """A state of the runs' shape."""
    return first_state(config, whole)


def test_interrupted_and_resumed_is_uninterrupted(whole, config, tmp_path, like):
    batches = TrainingStreams.batches

    def interrupted(streams, start, stop):
        for step, batch in enumerate(batches(streams, start, stop), start):
            if (step, stop) == (8, STEPS):  # and not where images are looked at before
                raise KeyboardInterrupt
            yield batch

    workdir = tmp_path / "run"
    with mock.patch.object(TrainingStreams, "batches", interrupted):
        with pytest.raises(KeyboardInterrupt):
            launch_main(config, workdir)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 6  # and the last checkpoint is of step 5
    assert sorted(os.listdir(workdir / "checkpoints" / Checkpoint.LAST)) == ["4", "5"]
    assert not (workdir / "results.json").exists()
    launch_main(config, workdir)
    assert_same_runs(workdir, whole, like)


def test_killed_and_resumed_is_uninterrupted(whole, config, tmp_path, like):
    workdir = tmp_path / "run"
    metrics = workdir / "metrics.jsonl"
    with start_launch(*launch_flags(config, workdir)) as process:
        wait_for_lines(metrics, 8, process)  # step 7, after 6 and 4
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert not (workdir / "results.json").exists()
    launch_main(config, workdir)
    assert_same_runs(workdir, whole, like)


def test_stopped_and_resumed_is_uninterrupted(whole, config, tmp_path, like):
    """It finishes its step, saves and says how it ended, however busy the machine is."""
    workdir = tmp_path / "run"
    flags = launch_flags(config, workdir)
    with start_launch(*flags, "--config.grace_period=500") as process:
        wait_for_lines(workdir / "metrics.jsonl", 2, process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert process.returncode == preemption.STATUS, errors
    assert "SIGTERM: waiting for the step and its checkpoint, up to 500 s" in errors
    saved = sorted(int(name) for name in os.listdir(workdir / "checkpoints" / Checkpoint.LAST))
    assert f"stopped after step {saved[-1]} of {STEPS}; the same command goes on" in errors
    assert not (workdir / "results.json").exists()
    launch_main(config, workdir)  # another grace period is still the same run
    assert_same_runs(workdir, whole, like)


def test_stopped_in_a_slow_step(whole, config, tmp_path, like, monkeypatch):
    """The step takes longer than a process lives that has nothing to save."""
    train = run.train

    def train_slowly(path, state, spread, *args, **kwargs):
        def step(state, batch):
            if int(state.step) == 6:
                with mock.patch.object(preemption, "NOTHING_UNSAVED", 0.2):
                    signal.raise_signal(signal.SIGINT)
                    time.sleep(1)
            return spread.step(state, batch)

        return train(path, state, dataclasses.replace(spread, step=step), *args, **kwargs)

    workdir = tmp_path / "run"
    patient = config.copy_and_resolve_references().unlock()
    patient.grace_period = 500.0
    with monkeypatch.context() as patched:
        patched.setattr(run, "train", train_slowly)
        patched.setattr(preemption, "NOTHING_UNSAVED", 500.0)  # closing may take long, too
        with pytest.raises(SystemExit) as stop:
            launch_main(patient.lock(), workdir)
    assert stop.value.code == preemption.STATUS
    assert sorted(os.listdir(workdir / "checkpoints" / Checkpoint.LAST)) == ["5", "7"]
    launch_main(config, workdir)
    assert_same_runs(workdir, whole, like)


def test_poisoned_images_are_passed_over_and_named(config, tmp_path):
    """The second training image is not a number to the loss: its steps teach nothing."""
    batches = TrainingStreams.batches
    poisoned = {3, 4, 7}

    def spoiled(streams, start, stop):
        for step, batch in enumerate(batches(streams, start, stop), start):
            if stop == STEPS:  # it is trained on, and not drawn
                labeled = batch["seg/labeled"]
                labeled["image"] = labeled["image"].astype(np.float32)
                if step + 1 in poisoned:
                    labeled["image"][1] = np.nan
            yield batch

    c = config.copy_and_resolve_references()
    with c.unlocked():
        multimix.use_system(c, "unet")  # which is soon compiled
    with mock.patch.object(TrainingStreams, "batches", spoiled):
        launch_main(c, tmp_path / "run")
        with c.unlocked():
            c.max_skipped = 2
        message = refusal(c, tmp_path / "stopped")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    skipped = [line for line in lines if line["split"] == "skipped"]
    assert [line["step"] for line in skipped] == sorted(poisoned)
    ids = json.loads((tmp_path / "run" / "ids.json").read_text())["train"]
    for line in skipped:
        assert set(line["ids"]) == set(ids)
        for name, used in line["ids"].items():
            assert len(used) == c.batch_size and set(used) <= set(ids[name])
    trained = {line["step"]: line for line in lines if line["split"] == "train"}
    assert {step for step, line in trained.items() if line["skipped"]} == poisoned
    assert np.isfinite([trained[step]["param_norm"] for step in poisoned]).all()
    assert "2 steps in a row were not finite, the last step 4 (loss nan" in message
    assert "--config.learning_rate" in message


def refusal(config, workdir, mode="train"):
    """What a start that must fail says."""
    with pytest.raises(SystemExit) as stop:
        launch_main(config, workdir, mode)
    message = stop.value.code
    assert isinstance(message, str)  # Python prints it on stderr and exits with status 1
    assert message.startswith("error: ")
    assert "\n" not in message
    return message


@pytest.fixture
def own(tmp_path):
    """data/own/: 20 images with masks and labels."""
    folder = tmp_path / "data" / "own"
    rng = np.random.default_rng(0)
    for n in range(20):
        write_image(folder / "images" / f"i{n:02d}.png", rng.integers(0, 256, (32, 32), np.uint8))
        write_image(folder / "masks" / f"i{n:02d}.png", box(32, 32, slice(4, 20), slice(4, 9 + n)))
    rows = [(f"i{n:02d}", ("well", "ill")[n % 2]) for n in range(20)]
    write_csv(folder / "labels.csv", ["image", "label"], rows)
    (folder / "classes.txt").write_text("well\nill\n")
    return folder


def own_config(own, **fields):
    c = small_config(own.parent.parent / "prepared").copy_and_resolve_references().unlock()
    c.data_dir = str(own.parent)
    c.seg_data = c.cls_data = "folder:own"
    c.test_data = "folder:own=test"
    c.update_from_flattened_dict(fields)
    return c.lock()


def _truncate(own):
    path = own / "images" / "i03.png"
    path.write_bytes(path.read_bytes()[:200])


def _add_a_class(own):
    with (own / "labels.csv").open("a") as file:
        file.write("i03,dead\n")


DAMAGE = {
    "missing": (shutil.rmtree, r"data/own: no images .*--config\.data_dir"),
    "empty": (lambda own: shutil.rmtree(own) or own.mkdir(), r"data/own: no images .*--config\.da"),
    "truncated": (_truncate, r"images/i03\.png cannot be read as an image .*copy or download"),
    "no-image": (
        lambda own: (own / "images" / "i03.png").write_text("I am a picture"),
        r"images/i03\.png cannot be read as an image .*copy or download",
    ),
    "zero-bytes": (
        lambda own: (own / "images" / "i03.png").write_bytes(b""),
        r"images/i03\.png is empty \(0 bytes\); copy or download",
    ),
    "mask-size": (
        lambda own: write_image(own / "masks" / "i03.png", box(32, 31, slice(9), slice(9))),
        r"masks/i03\.png is 32x31 .*i03\.png must be 32x32; export it again",
    ),
    "mask-scale": (
        lambda own: write_image(own / "masks" / "i03.png", box(32, 32, slice(9), slice(9)) // 100),
        r"masks/i03\.png marks no pixel: it holds the values 0, 2, .*export the mask with 255",
    ),
    "label-no-class": (
        lambda own: (own / "classes.txt").write_text("well\nsick\n"),
        r"labels\.csv, line 3, has the label 'ill', but \S+classes\.txt names well, sick; correct",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_faulty_data_are_named_and_nothing_is_left(own, tmp_path, damage):
    do_damage, expected = DAMAGE[damage]
    do_damage(own)
    message = refusal(own_config(own), tmp_path / "run")
    assert_matches(message, expected)
    assert os.listdir(tmp_path) == ["data"]


def assert_matches(message, expected):
    with pytest.raises(ValueError, match=expected):
        raise ValueError(message)


def test_an_image_without_a_label_in_the_table(tmp_path):
    write_nih(tmp_path / "data" / "nihx")
    write_image(tmp_path / "data" / "nihx" / "images_002" / "images" / "00000009_000.png")
    c = small_config(tmp_path / "prepared").unlock()
    c.data_dir, c.cls_data = str(tmp_path / "data"), "nihx"
    multimix.use_system(c, "enc")
    message = refusal(c, tmp_path / "run")
    assert_matches(message, r"00000009_000\.png has no row in \S+Data_Entry_2017\.csv; add its row")
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"seg_labels": "500"},
            r"seg_labels=500, but folder:own has 14 .*number up to 14 or \"all",
        ),
        ({"cls_labels": "15"}, r"cls_labels=15, but folder:own has 14 .*number up to 14 or \"all"),
        ({"cls_labels": "many"}, r"cls_labels='many' is not a number"),
        ({"batch_size": 6}, r"batch_size=6 does not divide into 4 devices .*config\.batch_size"),
        ({"size": 40}, r"size=40, .*multiple of 16; set --config\.size"),
        (
            {"method": "x"},
            r"method='x' is unknown; use one of multimix, dtml, consistency \(config\.method\)",
        ),
        ({"parallel": "x"}, r"parallel='x' is unknown; use 'pmap' or 'jit' \(config\.parallel\)"),
        ({"dtype": "x"}, r"dtype='x' is unknown; .*\(config\.dtype\)"),
        ({"seg_data": "jrst"}, r"no data set is named 'jrst'; use one of chex, jsrt"),
        ({"optimizer.name": "x"}, r"optimizer\.name='x' is unknown"),
        ({"schedule.name": "x"}, r"schedule\.name='x' is unknown"),
        ({"model.use_classifier": False}, r"use_bridge=True needs use_classifier=True"),
        (
            {"model.filters": (4,) * 6},
            r"images are 32x32, .*config\.size or .*config\.model\.filter",
        ),
        ({"model.num_classes": 3}, r"model\.num_classes"),
        ({"model.in_channels": 2}, r"config\.model\.in_channels"),
        ({"steps": 0}, r"steps"),
        ({"accumulate": -1}, r"accumulate=-1, .*0 or more"),
        ({"log_every": 0}, r"log_every"),
        ({"eval_every": 0}, r"eval_every"),
        ({"grace_period": -1.0}, r"grace_period=-1\.0, .*0 or more; set --config\.grace_period"),
        ({"grace_period": float("nan")}, r"grace_period=nan"),
        ({"checkpoint_every": 0}, r"checkpoint_every"),
        ({"eval_batch_size": 0}, r"eval_batch_size"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_asked_for_is_named_and_no_run_begins(own, tmp_path, fields, expected):
    message = refusal(own_config(own, **fields), tmp_path / "run")
    assert_matches(message, expected)
    assert not (tmp_path / "run").exists()


def test_a_test_set_of_more_classes(own, tmp_path):
    other = shutil.copytree(own, own.parent / "other")
    write_csv(
        other / "labels.csv", ["image", "label"], [(f"i{n:02d}", "abc"[n % 3]) for n in range(20)]
    )
    (other / "classes.txt").unlink()
    c = own_config(own, test_data="folder:other=all")
    assert_matches(
        refusal(c, tmp_path / "run"), r"folder:other has 3 classes, but the model has 2;"
    )
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_another_run(whole, config):
    before = contents(whole)
    other = config.copy_and_resolve_references().unlock()
    other.learning_rate = 0.5
    message = refusal(other, whole)
    expected = (
        rf"--workdir={whole} holds the run of another config: learning_rate \(0\.001 there, 0"
    )
    assert_matches(message, expected)
    assert contents(whole) == before


def copy_unfinished(whole, workdir):
    """A run that was stopped before its last checkpoint."""
    shutil.copytree(whole, workdir)
    (workdir / "results.json").unlink()
    shutil.rmtree(workdir / "checkpoints" / Checkpoint.LAST / str(STEPS))
    return workdir


def test_folders_that_cannot_be_written_are_named_with_their_flag(config, tmp_path):
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "below"
    assert f"--workdir={below} cannot be written (Not a directory" in refusal(config, below)
    other = config.copy_and_resolve_references().unlock()
    other.prepared_dir = str(below)
    message = refusal(other, tmp_path / "run")
    assert f"--config.prepared_dir={below} cannot be written (Not a directory" in message


def test_changed_data_are_not_trained_on(whole, config, tmp_path):
    workdir = copy_unfinished(whole, tmp_path / "run")
    before = contents(workdir)
    choose_other = lambda ids, *args, **kwargs: np.arange(10)
    with mock.patch("data_pipelines.splits.choose_labeled", choose_other):
        message = refusal(config, workdir)
    assert_matches(message, r"images of this run have changed .*ids\.json.* --workdir")
    assert contents(workdir) == before  # ids.json still says which images they were


def test_other_data_are_not_evaluated(whole, config):
    before = contents(whole)
    choose_other = lambda ids, *args, **kwargs: np.arange(10)
    with mock.patch("data_pipelines.splits.choose_labeled", choose_other):
        message = refusal(config, whole, mode="eval")
    assert_matches(message, r"images of this run have changed .*ids\.json.* --workdir")
    assert contents(whole) == before


def test_damaged_checkpoint(whole, config, tmp_path):
    workdir = copy_unfinished(whole, tmp_path / "run")
    (last,) = (workdir / "checkpoints" / Checkpoint.LAST).iterdir()
    for file in (last / "state").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[:100])
    with start_launch(*launch_flags(config, workdir)) as process:
        _, errors = process.communicate()
    assert process.returncode == 1
    (message,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert f"checkpoint {last} cannot be read" in message
    assert "Traceback" not in errors


@pytest.mark.parametrize("spelling", ["--config={}", "--config {}"])
def test_packaged_configs_are_found_from_anywhere(tmp_path, monkeypatch, spelling):
    monkeypatch.chdir(tmp_path)
    given = spelling.format("configs/multimix.py:size=64").split(" ")
    there = pathlib.Path(launch.__file__).parent / "configs/multimix.py:size=64"
    assert with_packaged([*given, "--workdir=x"])[: len(given)] == spelling.format(there).split(" ")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "multimix.py").touch()
    for own in (given, ["--config=own.py"], ["--config"], ["--config.size=3"]):
        assert with_packaged(own) == own


def test_errors_of_a_process(config, tmp_path):
    """What the shell sees: status 1, one message, nothing written."""
    workdir = tmp_path / "run"
    with start_launch(*launch_flags(config, workdir), "--config.seg_labels=15") as process:
        out, errors = process.communicate()
    assert process.returncode == 1
    assert out == ""
    (message,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert_matches(message, r'seg_labels=15, but phantom_seg_a has 14 .* up to 14 or "all"')
    assert "Traceback" not in errors
    assert not workdir.exists()


# What ml_collections loads a config file with.
loads_modules = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def parse(monkeypatch, *flags_):
    """What launch.py makes of its command line."""
    argv = ["launch.py", "--workdir=x", *flags_]
    monkeypatch.setattr(sys, "argv", argv)
    flags.FLAGS.unparse_flags()
    arguments.parse(argv)
    return launch._CONFIG.value


@loads_modules
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--config=configs/multimix.py:method=x"],
            r"method='x' is unknown; use one of unet, enc,",
        ),
        (["--config=configs/multimix.py:labels=10"], r"'labels=10' is unknown; use key=value with"),
        (["--config=configs/multimix.py:size=big"], r"'size=big' needs a whole number"),
        (
            ["--config=configs/quickstart.py", "--config.batch_size=few"],
            r"--config\.batch_size='few' is not a whole number; it is 10 here",
        ),
        (["--config=configs/absent.py"], r"configs/absent\.py"),
        (["--config=configs/quickstart.py", "--config.model.depth=3"], r"model\.depth is unknown;"),
        (["--config=configs/common.py", "--config.foo=1"], r"foo is unknown; --print_config lists"),
        (
            ["--config", "configs/common.py", "--config.dice_weight=1"],
            r"--config\.dice_weight is unknown; did you mean --config\.objective\.dice_weight\? ",
        ),
        (
            ["--config=configs/common.py", "--config.window.path=3"],
            r"--config\.window\.path is unknown; did you mean --config\.window\.patch",
        ),
        (
            ["--config=configs/common.py", "--config.flips=maybe"],
            r"--config\.flips='maybe' is not True or False",
        ),
        (
            ["--config=configs/common.py", "--config.schedule=step"],
            r"--config\.schedule is a group of fields; set one of them: --config\.sch",
        ),
        (["--config=configs/common.py", "--mode=x"], r"--mode=x: value should be one of"),
        (["--confg=configs/common.py"], r"'confg'. Did you mean: config"),
        (["--mode=eval"], r"--config is missing; --help has an example"),
    ],
    ids=lambda value: value[-1].partition("g")[2] if isinstance(value, list) else "",
)
def test_faulty_command_lines(monkeypatch, arguments, expected):
    with pytest.raises(SystemExit) as stop:
        parse(monkeypatch, *arguments)
    message = stop.value.code
    assert message.startswith("error: ")
    assert "\n" not in message
    assert_matches(message, expected)


@loads_modules
def test_help_lists_the_flags_of_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["__main__"], "__doc__", launch.__doc__)
    with pytest.raises(SystemExit) as stop:
        parse(monkeypatch, "--help")
    assert stop.value.code is None  # which is status 0
    said = capsys.readouterr().out
    assert said.startswith(launch.__doc__)
    for flag in ("config=VALUE", "config.FIELD=VALUE", "workdir=VALUE", "cell=VALUE"):
        assert re.search(rf"^  --{re.escape(flag)} +\w", said, re.MULTILINE)
    assert "verbosity" not in said  # which is absl's


@loads_modules
@pytest.mark.parametrize(
    ("name", "field", "said_of_it"),  # a field each, since absl keeps what was set
    [
        ("common", "accumulate", "micro-batches of a batch"),
        ("dtml", "log_every", "steps from one line of"),
        ("quickstart", "max_skipped", "steps in a row"),
    ],
)
def test_a_config_is_printed_with_the_comment_of_each_field(
    monkeypatch, capsys, name, field, said_of_it
):
    with pytest.raises(SystemExit) as stop:
        parse(monkeypatch, f"--config=configs/{name}.py", "--print_config", f"--config.{field}=7")
    assert stop.value.code is None
    lines = capsys.readouterr().out.splitlines()
    assert all(re.fullmatch(r"[\w.]+ = .*\S +# \w.*|[\w.]+ = .*  # \S.*", line) for line in lines)
    said = dict(line.split(" = ", 1) for line in lines)
    known = importlib.import_module(f"configs.{name}").get_config().to_dict()
    assert set(said) == set(flatten_dict(known, sep="."))
    assert re.match(f"7 +# {said_of_it}", said[field])
    if name == "quickstart":  # whose recipe says what a field is, and not why it is set so
        assert said["objective.intensity"].endswith("  # augmentation of grey values")
        assert said["ema_decay"].endswith("  # of the moving average of the weights, 0 for none")


@loads_modules
def test_an_endless_argument(monkeypatch):
    with pytest.raises(SystemExit, match="^error: an argument is far too long"):
        parse(monkeypatch, "--config=configs/quickstart.py", f"--{'x' * 3000}")


@loads_modules
@pytest.mark.parametrize("name", CONFIGS)
def test_configs_are_locked_and_of_known_fields(monkeypatch, name):
    arguments = ":images=x,masks=y,labels=z" if name == "folder" else ""
    c = parse(monkeypatch, f"--config=configs/{name}.py{arguments}")
    assert c.is_locked
    known = dict(common.get_config().iteritems(preserve_field_references=False))
    assert set(c) - {"grid"} == set(known)
    for part in ("schedule", "optimizer", "window"):
        assert set(c[part]) == set(known[part])
    if c.method == "multimix":
        for part in ("model", "objective"):
            assert set(c[part]) == set(known[part])
    assert c.seed == 0
    assert importlib.import_module(f"configs.{name}").__doc__.count("python launch.py")


def test_fields_are_explained():
    source = pathlib.Path(common.__file__).read_text()
    c = common.get_config()
    for key in c:
        assert f"    c.{key} = " in source
    for fields, explained in (
        (c.model, MultiMix),
        (c.objective, MultiMixObjective),
        (c.schedule, optimizer.ScheduleSpec),
        (c.optimizer, optimizer.OptimizerSpec),
        (c.window, Windows),
        (dtml.get_config().objective, DtmlObjective),
        (consistency.get_config().objective, ConsistencyObjective),
    ):
        kinds = getattr(explained, "__mro__", (explained,))  # a method inherits fields
        ours = [kind for kind in kinds if kind.__module__.startswith("multimix_jax")]
        explained_names = re.findall(r"\w+(?=[\w, ]*: )", "".join(map(inspect.getsource, ours)))
        assert set(fields) <= set(explained_names)


@loads_modules
def test_fields_are_set_on_the_command_line(monkeypatch):
    c = parse(
        monkeypatch,
        "--config=configs/multimix.py:method=umtl,seg_labels=50,cls_labels=all,size=64,seed=3",
        "--config.steps=7",
        "--config.model.filters=(4, 8)",
    )
    assert (c.system, c.seg_labels, c.cls_labels, c.size, c.seed) == ("umtl", "50", "all", 64, 3)
    assert (c.steps, tuple(c.model.filters)) == (7, (4, 8))
    assert (c.model.use_bridge, c.objective.kl_weight, c.objective.dice_weight) == (False, 0, 5)
