"""Tests of multimix_jax.reporting.plots."""

import json

import numpy as np
import pytest
from PIL import Image

from multimix_jax.reporting import charts, groups, plots
from multimix_jax.runs import record
from tests.finished_runs import write_run

METHODS = ("unet", "enc_ssl", "umtl", "multimix")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folder of all figures."""
    runs = tmp_path_factory.mktemp("runs")
    for method in METHODS:
        for seed in (0, 1):
            write_run(runs, method, seed)
    folder = tmp_path_factory.mktemp("out") / "figures"
    plots.draw_all(groups.group_runs(record.find_runs([runs])), folder)
    return folder


def test_which_figures_there_are(drawn):
    both = [
        f"{kind}_32_100_10_{which}.png"
        for kind in ("boundaries_jsrt", "calibration", "dice", "roc")
        for which in ("best", "last")
    ]
    once = ["intensities.png", "learning_curves_32_100_10.png", "pseudo_labels_32_100_10.png"]
    assert {path.name for path in drawn.iterdir()} == {*both, *once}


def test_each_shows_something(drawn):
    for path in drawn.iterdir():
        with Image.open(path) as image:
            assert min(image.size) > 250, path
            pixels = np.asarray(image.convert("RGB"))
        assert (pixels < 250).any(axis=-1).mean() > 0.01, path


def test_colours_of_the_lines(drawn):
    """One for each of the systems that use pseudo-labels, and no other."""
    with Image.open(drawn / "pseudo_labels_32_100_10.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    shown = [
        (np.abs(pixels - np.array(charts.color_of(index)[:3]) * 255) < 25).all(axis=1).any()
        for index in range(4)
    ]
    assert shown == [False, True, False, True]


def test_fewer_sets_and_fewer_lines(tmp_path):
    """One system was not tested on all sets; a short run logged little, another more often."""
    write_run(tmp_path, "unet", 0)
    for seed, every in ((0, 20), (1, 10)):
        path = write_run(tmp_path, "umtl", seed)
        lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["step"] % every == 0]
        (path / "metrics.jsonl").write_text("".join(kept))
        arrays = dict(np.load(path / "examples.npz"))
        np.savez(path / "examples.npz", **{k: v for k, v in arrays.items() if "truth" not in k})
    grouped = groups.group_runs(record.find_runs([tmp_path]))
    plots.draw_all(grouped, tmp_path / "out")
    umtl = grouped[-1]
    steps, values = plots.history(umtl, "train", "loss", smooth=10)
    np.testing.assert_allclose((steps, values), ([30], [np.mean([1 / 20, 1 / 40])]))


def test_one_task_alone(tmp_path):
    write_run(tmp_path, "enc", 0)
    plots.draw_all(groups.group_runs(record.find_runs([tmp_path])), tmp_path / "out")
    assert "roc_32_100_last.png" in {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("together", [groups.comparable, groups.alike])
def test_systems_that_differ_in_more_than_parts(tmp_path, together):
    """Are drawn apart, or together where all of a budget are asked for."""
    write_run(tmp_path, "umtl", 0)
    write_run(tmp_path, "multimix", 0, learning_rate=0.5)
    grouped = groups.group_runs(record.find_runs([tmp_path]))
    plots.draw_all(grouped, tmp_path / "out", together)
    other = (tmp_path / "out" / "dice_32_100_10_other_last.png").exists()
    assert other == (together is groups.comparable)


def test_budgets_have_figures_of_their_own(tmp_path):
    write_run(tmp_path, "umtl", 0)
    write_run(tmp_path, "umtl", 1, seg_labels="all", cls_labels="all")
    write_run(tmp_path, "unet", 0)
    grouped = groups.group_runs(record.find_runs([tmp_path]))
    by_budget = plots.by_budget(grouped, groups.comparable)
    names = {name: [g.system for g in groups] for name, groups in by_budget.items()}
    assert names == {"32_100_10": ["unet", "umtl"], "32_all_all": ["umtl"]}
