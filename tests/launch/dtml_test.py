"""Runs of DTML on small drawn volumes, as a user starts them."""

import csv
import json
import re
import sys
from unittest import mock

import nibabel
import numpy as np
import pytest
from PIL import Image

from configs import dtml
from data_pipelines import load
from data_pipelines.sets import phantom3d
from multimix_jax.commands import report
from multimix_jax.errors import UsageError
from multimix_jax.training import machine
from tests.official_formats import write_la, write_nifti
from tests.small_runs import SMALL_PLANS, launch_main, metrics_of, prepare_phantoms

COUNTS = {"train": 6, "val": 2, "test": 3}
PATCH = (16, 16, 8)


def small(prepared, arguments="", **fields):
    c = dtml.get_config(f"filters=4,steps=6,seg_labels=3{arguments}")
    c.prepared_dir = str(prepared)
    c.update_from_flattened_dict(
        {
            **{"objective.patch": PATCH, "window.patch": PATCH, "window.stride": (8, 8, 4)},
            **{"model.convolutions": (1, 1), "log_every": 1, "eval_every": 3},
            **{"checkpoint_every": 2, "batch_size": 4, **fields},
        }
    )
    return c.lock()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A few phantoms of about 20 x 20 x 14 voxels."""
    folder = tmp_path_factory.mktemp("prepared")
    with mock.patch.multiple(phantom3d, COUNTS=COUNTS, SIDES=(20, 20, 14)):
        load("phantom3d", data_dir="", prepared_dir=str(folder), size=16)
    return folder


@pytest.fixture(scope="module")
def runs(prepared, tmp_path_factory):
    """A folder with a run of every system."""
    folder = tmp_path_factory.mktemp("runs")
    for method in dtml.ALL:
        launch_main(small(prepared, f",method={method}"), folder / method)
    return folder


def test_results_by_each_way_to_the_mask(runs):
    with (runs / "dtml" / "results.json").open() as file:
        results = json.load(file)
    for which in ("best", "last"):
        figures = results[which]["phantom3d"]
        for name in ("dice", "jaccard", "hd95", "assd", "hd95_mm", "assd_mm"):
            for way in ("", "sdf/", "average/"):
                assert figures[way + name]["n"] == COUNTS["test"]
    assert results["baseline"]["phantom3d"]["dice"]["mean"] > 0
    assert results["run"]["components"] == ["decoder", "distance network", "mutual term"]
    with (runs / "supervised" / "results.json").open() as file:
        assert not any("/" in name for name in json.load(file)["last"]["phantom3d"])


def test_predictions_lie_where_the_volumes_do(runs, prepared):
    examples = load("phantom3d", data_dir="", prepared_dir=str(prepared), size=16)
    with (runs / "dtml" / "per_image.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["checkpoint"] == "last"]
    ways = {"mask": "dice", "mask_sdf": "sdf/dice", "mask_average": "average/dice"}
    for row in rows:
        index = examples.ids.index(row["id"])
        extent = examples.extents[index].tolist()
        truth = examples.fetch(np.array([index]))["mask"][0, ..., 0][tuple(map(slice, extent))] > 0
        for way, column in ways.items():
            folder = runs / "dtml" / "predictions" / "last_phantom3d" / way
            image = nibabel.load(folder / f"{row['id']}.nii.gz")
            mask = image.get_fdata() > 0
            np.testing.assert_allclose(np.diag(image.affine)[:3], phantom3d.SPACING)
            dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
            assert float(row[column]) == pytest.approx(dice)


def test_pictures_and_report(runs, tmp_path, monkeypatch):
    names = {path.name for path in (runs / "dtml" / "figures").iterdir()}
    names = {re.sub(r"_and_last|^last|^best", "", name) for name in names}
    assert names == {"views.png", "_phantom3d.png"}
    monkeypatch.setattr(sys, "argv", ["report", str(runs), "--out", str(tmp_path / "out")])
    report.main()
    text = " ".join((tmp_path / "out" / "results.md").read_text().split())
    for part, system, to in (
        ("mutual term", "dtml", "pair"),
        ("distance network", "pair", "supervised"),
        ("teacher", "mean_teacher", "supervised"),
    ):
        assert f"| {part} | {system} | {to} |" in text
    assert "| dtml (sdf) |" in text and "| pair (average) |" in text
    for system in ("pair", "dtml"):
        name = f"two_tasks_phantom3d_{system}_16x16x8_3_*last.png"
        (path,) = (tmp_path / "out" / "figures").glob(name)
        with Image.open(path) as image:
            assert min(image.size) > 500


def test_page(runs, tmp_path, monkeypatch):
    """Of each volume three slices, with the mask by each way."""
    monkeypatch.setattr(sys, "argv", ["report", str(runs / "dtml"), "--html", f"--out={tmp_path}"])
    report.main()
    text = (tmp_path / "dtml.html").read_text()
    assert text.count("<figure><img") == COUNTS["test"] * 3 * (2 + 3)
    for way in ("prediction", "prediction, sdf", "prediction, average"):
        assert text.count(f"<figcaption>{way}</figcaption>") == COUNTS["test"] * 3
    assert text.count("<dt>Dice, sdf</dt>") == COUNTS["test"] * 3


def test_evaluated_again(runs, prepared, capsys):
    before = (runs / "pair" / "per_image.csv").read_bytes()
    launch_main(small(prepared, ",method=pair"), runs / "pair", mode="eval")
    assert "average/dice" in before.decode() and "phantom3d" in capsys.readouterr().out
    assert (runs / "pair" / "per_image.csv").read_bytes() == before


def test_interrupted_and_resumed_is_uninterrupted(runs, prepared, tmp_path):
    from multimix_jax.training.checkpoint import Checkpoints

    save = Checkpoints.save

    def save_and_stop(self, which, state, meta):
        save(self, which, state, meta)
        if int(state.step) == 4:
            raise KeyboardInterrupt

    config = small(prepared, ",method=mean_teacher")
    with mock.patch.object(Checkpoints, "save", save_and_stop), pytest.raises(KeyboardInterrupt):
        launch_main(config, tmp_path / "run")
    launch_main(config, tmp_path / "run")
    ours, theirs = tmp_path / "run", runs / "mean_teacher"
    assert metrics_of(ours) == metrics_of(theirs)
    assert (ours / "per_image.csv").read_bytes() == (theirs / "per_image.csv").read_bytes()


def test_what_would_fit_in_memory(prepared, tmp_path, monkeypatch):
    """What the error proposes fits, half of what was asked for does not."""
    large = {"objective.patch": (48, 48, 32), "window.patch": (48, 48, 32)}
    monkeypatch.setattr(machine, "memory_bytes", lambda: 2**27)
    with pytest.raises(SystemExit, match="patches of 48x48x32 take about 0 GiB") as error:
        launch_main(small(prepared, **large), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    words = str(error.value).partition("; ")[2].split(" would fit")[0]
    patch = tuple(map(int, words.split("x")))
    assert 0.2 < np.prod(patch) / np.prod((48, 48, 32)) < 1
    fitting = {"objective.patch": patch, "window.patch": patch, "steps": 1}
    launch_main(small(prepared, **fitting), tmp_path / "run")


def test_la_and_a_folder_of_ones_own(tmp_path):
    write_la(tmp_path / "la")
    rng = np.random.default_rng(0)
    for n in range(6):
        # Of the largest of la's sides, for which programs are compiled.
        values = rng.normal(size=(10, 9, 11)).astype(np.float32)
        write_nifti(tmp_path / "folder3d" / "images" / f"v{n}.nii.gz", values)
        label = (values > 0.5).astype(np.uint8)
        write_nifti(tmp_path / "folder3d" / "labels" / f"v{n}.nii.gz", label)
    for data in ("la", "folder3d"):
        few = dict(seg_labels="1", steps=2, eval_every=2)
        c = small(tmp_path / "prepared", f",data={data}", data_dir=str(tmp_path), **few)
        launch_main(c, tmp_path / "runs" / data)
        assert (tmp_path / "runs" / data / "results.json").exists()


@pytest.mark.parametrize("network", ["unet", "vnet"])
def test_images(tmp_path, network):
    """All parts of the loss, with running statistics (vnet) and without."""
    prepare_phantoms(tmp_path / "prepared", {("seg", "a"): SMALL_PLANS["seg", "a"]})
    data = f"data=phantom_seg_a,network={network},method={dtml.FULL}"
    c = dtml.get_config(f"{data},size=32,filters=2,steps=2,seg_labels=3")
    c.prepared_dir = str(tmp_path / "prepared")
    c.model[{"unet": "filters", "vnet": "convolutions"}[network]] = (1, 2)
    c.batch_size = 4
    launch_main(c.lock(), tmp_path / "run")
    with (tmp_path / "run" / "results.json").open() as file:
        assert {"dice", "sdf/dice", "average/dice"} <= set(json.load(file)["last"]["phantom_seg_a"])


FAULTS = {
    "sides": ({"objective.patch": (16, 16, 7)}, r"16x16x7, but each side must be a multiple of 2;"),
    "turn": ({"objective.patch": (16, 8, 8)}, r"patch=\(16, 8, 8\), but its first two sides"),
    "stride": ({"window.stride": (8, 8, 9)}, r"stride=\(8, 8, 9\), but .*config\.window\.stride"),
    "dimensions": ({"objective.patch": (16, 16)}, r"phantom3d holds volumes, but .* for images"),
    "network": ({"model.network": "vgg"}, r"model\.network='vgg' is unknown; use one of vnet"),
    "detach": ({"objective.detach": "both"}, r"detach='both' is unknown; use one of none"),
    "teacher": ({"objective.teacher_weight": 1.0}, r"has a teacher, .*config\.ema_decay"),
    "average": ({"ema_decay": 0.9}, r"not those of averaged weights; set config\.ema_decay=0, or"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_asked_for_is_named_and_no_run_begins(prepared, tmp_path, fault):
    fields, expected = FAULTS[fault]
    with pytest.raises((SystemExit, UsageError), match=expected):
        launch_main(small(prepared, **fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()
