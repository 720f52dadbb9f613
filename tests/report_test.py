"""Tests of multimix_jax.report."""

import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image

from multimix_jax import report
from multimix_jax.errors import UsageError


def entry(mean, n=40):
    return {"mean": mean, "std": 0.05, "ci95": [mean - 0.1, mean + 0.1], "n": n}


RESULTS = {
    "best": {
        "lungs": {"dice": entry(0.9), "hd": entry(12.5), "assd_mm": entry(1)},
        "chests": {"accuracy": entry(0.8, 120), "auroc": entry(0.85, 120)},
    },
    "last": {"lungs": {"dice": entry(0.875), "hd": entry(130.25)}},
    "run": {
        "best": {"step": 50, "threshold": 0.4},
        "last": {"step": 60, "threshold": 0.5},
        "steps": 60,
        "seconds": 12.6,
    },
}


def test_table():
    segmentation, classification = report.table(RESULTS).split("\n\n")
    title, best, last = segmentation.splitlines()
    assert title.split() == ["Segmentation", "data", "set", "n", "dice", "hd"]
    assert best.split() == "best lungs 40 0.900 [0.800, 1.000] 12.500 [12.400, 12.600]".split()
    assert last.split() == "last lungs 40 0.875 [0.775, 0.975] 130.250 [130.150, 130.350]".split()
    assert title.index("hd") == best.index("12.500") == last.index("130.250")
    title, best = classification.splitlines()
    assert title.split() == ["Classification", "data", "set", "n", "accuracy", "auroc"]
    assert best.split() == "best chests 120 0.800 [0.700, 0.900] 0.850 [0.750, 0.950]".split()


def test_table_of_one_task():
    results = {"best": {"lungs": RESULTS["best"]["lungs"]}, "last": {}}
    assert "Classification" not in report.table(results)
    assert report.table({"best": {}, "last": {}}) == ""


def test_a_set_without_the_metric_of_another_has_a_dash():
    results = {
        "best": {"a": {"accuracy": entry(0.5), "auroc": entry(0.6)}, "b": {"accuracy": entry(1)}}
    }
    assert report.table(results).splitlines()[2].split()[-1] == "-"


def test_per_image_file(tmp_path):
    rows = [
        {"checkpoint": "best", "id": "a, b", "dice": 0.5},
        {"checkpoint": "best", "id": "c", "label": 1, "probability_ill": 0.25},
    ]
    report.write_per_image(tmp_path / "per_image.csv", rows)
    with (tmp_path / "per_image.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["checkpoint", "id", "dice", "label", "probability_ill"]
    assert found[0] | {"id": "a, b", "dice": "0.5", "label": ""} == found[0]
    assert found[1] | {"dice": "", "label": "1", "probability_ill": "0.25"} == found[1]
    assert [path.name for path in tmp_path.iterdir()] == ["per_image.csv"]


def test_from_the_worst_to_the_best_dice():
    dice = [0.5, 0.9, None, 0.1, 0.7, 0.3]
    rows = [{"id": str(n)} | ({} if d is None else {"dice": d}) for n, d in enumerate(dice)]
    assert report.instructive(rows, 3).tolist() == [3, 0, 1]
    assert report.instructive(rows, 5).tolist() == [3, 5, 0, 4, 1]
    assert report.instructive(rows, 9).tolist() == [3, 5, 0, 4, 1]
    assert report.instructive(rows, 1).tolist() == [3]


def test_without_masks_over_the_probabilities():
    rows = [{"id": str(n), "probability_well": 1 - p, "probability_ill": p} for n, p in
            enumerate([0.4, 0.9, 0.1])]  # fmt: skip
    assert report.instructive(rows, 2).tolist() == [2, 1]
    assert report.instructive([{"id": "unknown"}, *rows], 3).tolist() == [3, 1, 2]


def test_caption():
    row = {"id": "test/i1", "dice": 0.87654, "hd": 3.0}
    assert report.caption(row) == "i1\nDice 0.877"
    row |= {"label": 1, "probability_well": 0.75, "probability_ill": 0.25}
    assert report.caption(row) == "i1\nDice 0.877\nis ill: 0.25"
    assert report.caption({"id": "i1"}) == "i1"


def test_mosaic():
    pictures = [
        [np.full((2, 3, 3), 10 * row + column, np.uint8) for column in range(4)] for row in range(2)
    ]
    joined = report.mosaic(pictures)
    assert joined.shape == (4, 12, 3)
    np.testing.assert_array_equal(joined[::2, ::3, 0], [[0, 1, 2, 3], [10, 11, 12, 13]])


GREEN, ORANGE = (64, 220, 96), (255, 96, 32)


def ring(top, left, bottom, right, size=8):
    """The pixels of the outline of a rectangle, its corners among them."""
    outline = np.zeros((size, size), bool)
    outline[[top, bottom], left : right + 1] = True
    outline[top : bottom + 1, [left, right]] = True
    return outline


def filled(top, left, bottom, right):
    mask = np.zeros((8, 8, 1), bool)
    mask[top : bottom + 1, left : right + 1] = True
    return mask


def test_overlay_draws_outlines_and_leaves_the_rest():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    picture = report.overlay(image, truth=filled(1, 1, 4, 5), mask=filled(3, 3, 7, 7))
    expected = np.repeat(image, 3, axis=-1)
    expected[ring(1, 1, 4, 5)] = GREEN
    expected[ring(3, 3, 7, 7)] = ORANGE  # the prediction lies on top, and reaches the border
    np.testing.assert_array_equal(picture, expected)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(image[..., 0], np.arange(64).reshape(8, 8))


@pytest.mark.parametrize("empty", [None, np.zeros((8, 8, 1), bool)])
def test_overlay_of_nothing_is_the_image(empty):
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    picture = report.overlay(image, truth=empty, mask=empty)
    np.testing.assert_array_equal(picture, np.repeat(image, 3, axis=-1))


def test_overlay_of_channels_outlines_their_union():
    image = np.zeros((8, 8, 1), np.uint8)
    halves = np.concatenate([filled(1, 1, 4, 3), filled(1, 3, 4, 6)], axis=-1)
    green = (report.overlay(image, truth=halves) == GREEN).all(axis=-1)
    np.testing.assert_array_equal(green, ring(1, 1, 4, 6))


def test_heat_runs_from_dark_to_bright():
    saliency = np.linspace(3, 5, 64).reshape(8, 8, 1)
    picture = report.heat(saliency)
    assert (picture.dtype, picture.shape) == (np.uint8, (8, 8, 3))
    brightness = picture.astype(int).sum(axis=-1).ravel()
    assert brightness[0] < 20
    assert brightness[-1] > 500
    assert (np.diff(brightness) >= 0).all()


def test_heat_spares_one_bright_pixel_and_a_constant():
    saliency = np.linspace(0, 1, 1024).reshape(32, 32, 1)
    saliency[0, 0] = 1000
    assert report.heat(saliency)[16, 16].sum() > 200  # not all dark beside it
    assert len(np.unique(report.heat(np.full((8, 8, 1), 0.25)))) <= 3


@pytest.mark.parametrize(
    "titles", [{}, {"columns": ["image", "truth"], "rows": ["a\nDice 0.9", "b"]}]
)
def test_grid_writes_a_picture(tmp_path, titles):
    grey, color = np.full((16, 16, 1), 128, np.uint8), np.full((16, 16, 3), (255, 0, 0), np.uint8)
    path = tmp_path / "figures" / "x.png"
    report.grid([[grey, color], [grey[..., 0]]], path, **titles)
    with Image.open(path) as image:
        width, height = image.size
        pixels = np.asarray(image.convert("RGB"))
    assert 300 < height < width < 1000
    # Three squares, each an eighth of the picture or more.
    for value, least in (((128, 128, 128), 0.2), ((255, 0, 0), 0.1), ((255, 255, 255), 0.1)):
        assert (pixels == value).all(axis=-1).mean() > least


@pytest.fixture
def finished(tmp_path):
    config = {"system": "unet", "size": 64, "seg_labels": "10", "cls_labels": "all", "steps": 60}
    (tmp_path / "config.json").write_text(json.dumps({**config, "seed": 3}))
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    return tmp_path


def test_rows_of_a_finished_run(finished):
    rows = report.result_rows([finished])
    assert len(rows) == 3 + 2 + 2
    (row,) = [r for r in rows if (r["checkpoint"], r["metric"]) == ("last", "hd")]
    assert row == {
        "system": "unet",
        "size": 64,
        "seg_labels": "10",
        "cls_labels": "all",
        "steps": 60,
        "seeds": [3],
        "seconds": 13,
        "checkpoint": "last",
        "step": 60,
        "data_set": "lungs",
        "metric": "hd",
        **entry(130.25),
    }


def test_markdown(finished):
    text = report.markdown(report.result_rows([finished])).splitlines()
    assert text[0] == "### lungs (40 images)"
    assert text[2] == "| | unet, seed 3, best (step 50) | unet, seed 3, last (step 60) |"
    assert text[3] == "|---|---|---|"
    assert "| dice | 0.900 ± 0.050 [0.800, 1.000] | 0.875 ± 0.050 [0.775, 0.975] |" in text
    assert "| assd_mm | 1.000 ± 0.050 [0.900, 1.100] |  |" in text
    assert "### chests (120 images)" in text


def test_a_run_without_results_is_named(tmp_path):
    with pytest.raises(UsageError, match=rf"^{tmp_path} holds no results .*finish the run"):
        report.result_rows([tmp_path])


def test_command_line(finished, tmp_path, monkeypatch, capsys):
    rows = finished / "rows.json"
    monkeypatch.setattr(sys, "argv", ["report", str(finished), "--json", str(rows)])
    report.main()
    assert capsys.readouterr().out.startswith("### lungs (40 images)\n")
    assert json.loads(rows.read_text()) == report.result_rows([finished])
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "absent")])
    with pytest.raises(SystemExit) as stop:
        report.main()
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith("error: ")
