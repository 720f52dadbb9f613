"""Tests of multimix_jax.reporting.plots."""

import json
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from multimix_jax.reporting import groups, plots, series
from multimix_jax.reporting.series import Curve
from multimix_jax.runs import record
from tests.finished_runs import write_run


def titles(monkeypatch):
    """What `plots` draws from here on: titles and labels of the lines, by the name of the file."""
    drawn = {}

    def noted(path, charts, **_):
        drawn[path.name] = {title: [c.label for c in curves] for title, curves in charts.items()}

    monkeypatch.setattr(plots, "_save", noted)
    return drawn


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
        (np.abs(pixels - np.array(to_rgb(f"C{index}")) * 255) < 25).all(axis=1).any()
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
    steps, values = series.history(umtl.runs, "train", "loss", smooth=10)
    np.testing.assert_allclose((steps, values), ([30], [np.mean([1 / 20, 1 / 40])]))


def test_one_task_alone(tmp_path):
    write_run(tmp_path, "enc", 0)
    plots.draw_all(groups.group_runs(record.find_runs([tmp_path])), tmp_path / "out")
    assert "roc_32_100_last.png" in {path.name for path in (tmp_path / "out").iterdir()}


def test_classes_have_their_names_and_one_figure_for_the_same_weights(tmp_path, monkeypatch):
    paths = [write_run(tmp_path, "enc", 0), write_run(tmp_path, "enc_ssl", 0)]
    for path in paths:
        results = json.loads((path / "results.json").read_text())
        results["best"] = results["last"]
        (path / "results.json").write_text(json.dumps(results))
    drawn = titles(monkeypatch)
    grouped = groups.group_runs(record.find_runs([tmp_path]))
    plots.draw_all(grouped, tmp_path / "out", groups.alike)
    assert {"roc_32_100_best_and_last.png", "calibration_32_100_best_and_last.png"} < set(drawn)
    assert not any(name.endswith(("100_best.png", "100_last.png")) for name in drawn)
    lines = drawn["roc_32_100_best_and_last.png"]
    assert lines == {"chex (internal test set)\nill": ["enc", "enc_ssl"]}
    # A third class: each has a chart.
    table = (paths[0] / "per_image.csv").read_text().splitlines()
    table = [table[0] + ",probability_odd", *(f"{line},0.1" for line in table[1:])]
    (paths[0] / "per_image.csv").write_text("\n".join(table))
    plots.draw_all(groups.group_runs(record.find_runs(paths[:1])), tmp_path / "out")
    shown = [title.split("\n")[1] for title in drawn["roc_32_100_best_and_last.png"]]
    assert shown == ["well", "ill", "odd"]


def test_the_legend_hides_no_line(monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(plots.Figure, "savefig", lambda figure, path: figures.append(figure))
    plots._save(tmp_path / "x.png", {"one": curves("a" * 40, "b"), "two": curves("b", "c")}, x="x")
    (figure,) = figures
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a" * 40, "b", "c"]
    top = legend.get_window_extent().y1
    assert all(panel.get_tightbbox().y0 >= top for panel in figure.axes)


def test_no_truth_no_figure(tmp_path, monkeypatch):
    """Of unlabelled images without a truth nobody knows which pseudo-labels are right."""
    path = write_run(tmp_path, "enc_ssl", 0)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["cls/accepted"] = 0.5
        line["cls/accepted_and_known"] = 0.25 if line["step"] > 2 else 0.0
        line["cls/accepted_and_correct"] = line["step"] / 400 if line["step"] > 2 else 0.0
    write = lambda: (path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    write()
    accepted, (right,) = series.accepted_curves([record.read_run(path)], "all", "right")
    assert set(accepted.y) == {0.5}
    np.testing.assert_allclose(right.y, [np.nan, np.nan, *(right.x[2:] / 100)])
    for line in lines:
        line["cls/accepted_and_known"] = line["cls/accepted_and_correct"] = 0.0
    write()
    assert series.accepted_curves([record.read_run(path)], "all", "right")[1] == []
    drawn = titles(monkeypatch)
    plots._pseudo_labels(groups.group_runs(record.find_runs([path])), tmp_path / "x.png")
    assert drawn["x.png"] == {"share of pseudo-labels accepted": ["enc_ssl"]}


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
    by_budget = groups.by_budget(grouped, groups.comparable)
    names = {name: [g.system for g in groups] for name, groups in by_budget.items()}
    assert names == {"32_100_10": ["unet", "umtl"], "32_all_all": ["umtl"]}


EVIL = "<script>alert(1)</script> $\\frac & _x"
SVG = "{http://www.w3.org/2000/svg}"


def curves(*names):
    return [Curve(name, np.arange(4.0), np.arange(4.0) + n) for n, name in enumerate(names)]


def texts(svg):
    return ["".join(e.itertext()) for e in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_a_chart_of_a_page_is_the_same_every_time():
    assert plots.svg(curves("a", "b"), x="step") == plots.svg(curves("a", "b"), x="step")


def test_a_chart_of_a_page_fetches_nothing_and_its_text_stays_text():
    svg = plots.svg(curves("a", "b"), x="step")
    assert "step" in texts(svg)
    elements = list(ElementTree.fromstring(svg).iter())
    assert not [e for e in elements if e.tag == f"{SVG}script"]
    links = [value for e in elements for key, value in e.items() if key.endswith("href")]
    assert all(link.startswith("#") for link in links)


def test_legend_and_chart_agree():
    lines = [line._replace(color=f"C{n}") for n, line in enumerate(curves(*"abcdefg"))]
    svg = plots.svg(lines, x="step")
    assert all(plots.css(line).removeprefix("solid ") in svg for line in lines)
    assert len(set(map(plots.css, lines))) == 7
    assert plots.css(lines[0]._replace(style="--")) == plots.css(lines[0]).replace(
        "solid", "dashed"
    )


def test_names_do_not_become_markup():
    svg = plots.svg(curves(EVIL, "b"), x="$x<b>", y=EVIL)
    assert {EVIL, "$x<b>"} <= set(texts(svg))
    assert not list(ElementTree.fromstring(svg).iter(f"{SVG}script"))


@pytest.mark.parametrize("y", [[np.nan, 1.0, np.inf], [np.nan] * 3, [2.0, 2.0, 2.0]])
def test_what_is_not_finite_does_no_harm(y):
    lines = [Curve("a", np.arange(3.0), np.array(y)), *curves("b")]
    assert "step" in texts(plots.svg(lines, x="step", shares=True))


def test_a_line_goes_on_where_values_are_not_finite():
    x = np.arange(42.0)
    gaps = Curve("a", x, np.where(x % 2, np.nan, x))
    without = Curve("a", x[::2], x[::2])
    assert plots.svg([gaps], x="step") == plots.svg([without], x="step")


class OneSet(NamedTuple):
    """Images of a data set, as far as a curve looks at them."""

    probabilities: np.ndarray
    labels: np.ndarray


def test_the_curve_of_one_run_is_exact():
    first = np.array([0.9, 0.8, 0.3, 0.2])
    good = OneSet(np.stack([1 - first, first], 1), np.array([1, 1, 0, 0]))
    (curve,) = series.roc("a", "C0", [(None, good)], "best")
    assert (curve.x[0], curve.y[0]) == (0, 0)
    everyone = OneSet(good.probabilities, np.ones((4, 2), int))  # no false alarm is possible
    (curve,) = series.roc("a", "C0", [(None, everyone)], "best")
    assert curve.y[0] == 0 and curve.y[-1] == 1
    (mean,) = series.roc("a", "C0", [(None, good)] * 2, "best")
    np.testing.assert_allclose(mean.y, 1.0)


def test_skipped_steps_are_no_learning_curve(tmp_path):
    for system in ("umtl", "unet"):
        path = write_run(tmp_path, system, 0)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "split": "skipped", "loss": NaN}\n')
    plots.draw_all(groups.group_runs(record.find_runs([tmp_path])), tmp_path / "out")
    assert (tmp_path / "out" / "learning_curves_32_100_10.png").exists()


def test_control_characters_do_no_harm():
    assert "a\N{REPLACEMENT CHARACTER}b" in texts(plots.svg(curves("c"), x="a\x01b"))
