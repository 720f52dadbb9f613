"""Tests of multimix_jax.commands.report."""

import csv
import json
import re
import sys

import pytest

from multimix_jax.commands import report
from multimix_jax.reporting import compare, published
from multimix_jax.runs import record
from tests.finished_runs import write_run


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


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for method in ("unet", "umtl", "umtl_s"):
        for seed in (0, 1):
            write_run(folder, method, seed)
    return folder


def run_command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments)])
    report.main()


def test_markdown(runs, monkeypatch, capsys):
    run_command(monkeypatch, runs)
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("### jsrt, last checkpoint (30 images, trained on)")
    assert lines[start + 2] == "| system | size | steps | labels/masks | seeds | dice |"
    table = [line.split(" | ") for line in lines[start + 4 : start + 11]]
    assert [row[:5] for row in table] == [
        ["| baseline", "32", "40", "–/10", "0, 1"],
        ["| unet", "32", "40", "–/10", "0, 1"],
        ["| *published*", "*256*", "", "–/10", ""],
        ["| umtl", "32", "40", "100/10", "0, 1"],
        ["| *published*", "*256*", "", "100/10", ""],
        ["| umtl_s", "32", "40", "100/10", "0, 1"],
        ["| *published*", "*256*", "", "100/10", ""],
    ]
    assert re.fullmatch(r"0\.\d{3} ± 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\] \|", table[1][5])
    assert table[2][5] == "*0.634* *(0.820)* |"
    assert "### What each part adds, best checkpoint" in lines
    assert "How to read the published rows:" in lines
    bridge = "| bridge | umtl_s | umtl | 32 | 40 | 100/10 | jsrt | dice |"
    assert any(line.startswith(bridge) for line in lines)


def test_overview(runs):
    """A line for each system and budget, a column for each set and metric, those of masks first."""
    rows = compare.summarize(compare.group_runs(record.find_runs([runs])))
    text = report.overview(rows)
    _, best, last = text.split("### Overview, ")
    assert best.startswith("best checkpoint") and last.startswith("last checkpoint")
    header, _, *lines = last.strip().splitlines()[2:]
    assert "| seeds | jsrt dice | chex accuracy | chex auroc |" in header
    (umtl,) = [line for line in lines if line.startswith("| umtl | 32 ")]
    (row,) = [
        row
        for row in rows
        if (row["system"], row["checkpoint"], row["metric"]) == ("umtl", "last", "dice")
    ]
    assert f"| {row['mean']:.3f} ± {row['std']:.3f} |" in umtl
    assert any(line.startswith("| baseline | 32 ") for line in lines)


def test_everything_is_written(runs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    run_command(monkeypatch, runs, "--out", out, "--json", tmp_path / "rows.json")
    rows = json.loads((out / "results.json").read_text())
    assert rows == json.loads((tmp_path / "rows.json").read_text())
    required = "system size seg_labels cls_labels seeds checkpoint data_set metric mean std ci95"
    assert all(set(required.split()) <= set(row) for row in rows)
    with (out / "results.csv").open(newline="") as file:
        flat = list(csv.DictReader(file))
    assert [float(row["mean"]) for row in flat] == [row["mean"] for row in rows]
    assert flat[0]["seeds"] == "0;1"
    assert (out / "results.md").read_text().strip() == capsys.readouterr().out.strip()
    compared = json.loads((out / "comparisons.json").read_text())
    assert all(row["p"] <= row["p_holm"] <= 1 for row in compared if row["metric"] != "auroc")
    assert len(list((out / "figures").iterdir())) > 5


def test_latex(runs):
    rows = compare.summarize(compare.group_runs(record.find_runs([runs])))
    lines = report.latex(rows, "last").splitlines()
    assert lines[0] == r"\begin{tabular}{llcc}"
    assert lines[3] == r"System & Labels & Acc & Dice \\"
    (umtl,) = [line for line in lines if line.startswith(r"umtl\_s & 100/10 & $")]
    assert re.fullmatch(r".*\$0\.\d{3} \{\\pm\} 0\.\d{3}\$ & \$0\.\d{3}.*\$ \\\\", umtl)
    assert any(line.startswith(r"unet & --/10 &  & $0.") for line in lines)
    assert lines[-1] == r"\end{tabular}"


def refusal(monkeypatch, capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        run_command(monkeypatch, *arguments)
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    return message


def test_what_cannot_be_reported(tmp_path, monkeypatch, capsys):
    assert "holds no results" in refusal(monkeypatch, capsys, tmp_path / "absent")
    path = write_run(tmp_path, "umtl", 0)
    (path / "examples.npz").unlink()
    message = refusal(monkeypatch, capsys, path, "--out", tmp_path / "out")
    assert "examples.npz is missing; evaluate that run again with --mode=eval" in message
    (tmp_path / "file").touch()
    assert "file" in refusal(monkeypatch, capsys, path, "--out", tmp_path / "file")
    results = (path / "results.json").read_text()
    (path / "results.json").write_text(results.replace('"temperature": 2.0', '"temperature": 0'))
    assert "temperature is 0.0, but it must be more" in refusal(monkeypatch, capsys, path)
    (path / "results.json").write_text("{")
    assert "is damaged (JSONDecodeError" in refusal(monkeypatch, capsys, path)
    (path / "config.json").write_text("{")
    assert "is damaged (JSONDecodeError" in refusal(monkeypatch, capsys, tmp_path)


def test_latex_of_other_hospitals_alone(tmp_path):
    write_run(tmp_path, "umtl", 0, seg_data="x", cls_data="y")
    rows = compare.summarize(compare.group_runs(record.find_runs([tmp_path])))
    assert r"\multicolumn{2}{c}{cross-domain}" in report.latex(rows, "last")
    assert "in-domain" not in report.latex(rows, "last")


def test_lengths_of_training_are_kept_apart(tmp_path):
    write_run(tmp_path, "umtl", 0, dice=0.6)
    write_run(tmp_path, "umtl", 1, dice=0.9, steps=99)
    rows = compare.summarize(compare.group_runs(record.find_runs([tmp_path])))
    for text in (report.markdown(rows), report.latex(rows, "last")):
        assert sum("umtl" in line for line in text.splitlines()) % 2 == 0
        assert len({line for line in text.splitlines() if "umtl" in line}) >= 2


def test_published_rows():
    """Against the printed table, and its own arithmetic: F1 and budgets."""
    assert len(published.ROWS) == 16
    last = published.find("multimix", "all", "all", "jsrt")
    assert last == {
        **{"accuracy": 0.843, "f1_normal": 0.740, "f1_pneumonia": 0.890},
        **{"dice": 0.975, "ssim": 0.960, "ahd": 0.528},
        **{"jaccard": 0.952, "precision": 0.970, "recall": 0.982},
    }
    other = {"accuracy": 0.520, "dice": 0.943, "ssim": 0.937, "ahd": 0.417}
    assert published.find("multimix", "all", "all", "nihx") == other
    assert published.find("unet", None, "10", "mcu") == {"dice": 0.555, "ssim": 0.68, "ahd": 8.691}
    assert published.find("unet", None, "77", "jsrt") == {}
    assert published.find("unet", None, "10", "phantom_seg_a") == {}
