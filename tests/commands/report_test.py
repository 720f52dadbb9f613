"""Tests of multimix_jax.commands.report."""

import csv
import json
import re
import sys

import pytest

from multimix_jax.commands import report
from tests.finished_runs import write_run


def run_command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments)])
    report.main()


def test_markdown(runs, monkeypatch, capsys):
    run_command(monkeypatch, runs)
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("### jsrt, last checkpoint (30 images, internal test set)")
    cells = lambda line: [cell.strip() for cell in line.strip("|").split("|")]
    assert cells(lines[start + 2]) == ["system", "size", "steps", "labels/masks", "seeds", "dice"]
    table = [cells(line) for line in lines[start + 4 : start + 11]]
    assert [row[:5] for row in table] == [
        ["baseline", "32", "40", "–/10", "0, 1"],
        ["unet", "32", "40", "–/10", "0, 1"],
        ["*published*", "*256*", "", "–/10", ""],
        ["umtl", "32", "40", "100/10", "0, 1"],
        ["*published*", "*256*", "", "100/10", ""],
        ["umtl_s", "32", "40", "100/10", "0, 1"],
        ["*published*", "*256*", "", "100/10", ""],
    ]
    assert re.fullmatch(r"0\.\d{3} ± 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", table[1][5])
    assert table[2][5] == "*0.634* *(0.820)*"
    assert "### What each part adds, best checkpoint" in lines
    assert "How to read the published rows:" in lines
    bridge = ["bridge", "umtl_s", "umtl", "32", "40", "100/10", "jsrt", "dice"]
    assert any(cells(line)[:8] == bridge for line in lines)


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


def refusal(monkeypatch, *arguments):
    with pytest.raises(SystemExit) as stop:
        run_command(monkeypatch, *arguments)
    assert stop.value.code.startswith("error: ")
    return stop.value.code


def test_what_cannot_be_reported(tmp_path, monkeypatch):
    assert "absent is not a folder; name that of a run" in refusal(monkeypatch, tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "holds no results" in refusal(monkeypatch, f"label={tmp_path / 'empty'}")
    path = write_run(tmp_path, "umtl", 0)
    (path / "examples.npz").unlink()
    message = refusal(monkeypatch, path, "--out", tmp_path / "out")
    assert "examples.npz is missing; evaluate that run again with --mode=eval" in message
    (tmp_path / "file").touch()
    assert "file" in refusal(monkeypatch, path, "--out", tmp_path / "file")
    results = (path / "results.json").read_text()
    (path / "results.json").write_text(results.replace('"temperature": 2.0', '"temperature": 0'))
    assert "temperature is 0.0, but it must be more" in refusal(monkeypatch, path)
    (path / "results.json").write_text("{")
    assert "is damaged (JSONDecodeError" in refusal(monkeypatch, path)
    (path / "config.json").write_text("{")
    assert "is damaged (JSONDecodeError" in refusal(monkeypatch, tmp_path)


def test_a_run_without_any_truth_has_nothing_to_report(tmp_path, monkeypatch):
    path = write_run(tmp_path, "unet", 0)
    results = json.loads((path / "results.json").read_text())
    (path / "results.json").write_text(json.dumps({"run": results["run"]}))
    assert "nothing to report: of no test image" in refusal(monkeypatch, path)
