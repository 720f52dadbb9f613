"""Tests of multimix_jax.reporting.tables."""

import dataclasses
import pathlib
import re

from multimix_jax.names import Head
from multimix_jax.reporting import compare, groups, published, tables
from multimix_jax.runs import record
from tests.finished_runs import write_run

ROOT = pathlib.Path(record.__file__).parents[2]


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
    segmentation, classification = tables.of_run(RESULTS).split("\n\n")
    title, best, last = segmentation.splitlines()
    assert title.split() == ["Segmentation", "data", "set", "n", "dice", "hd"]
    assert best.split() == "best lungs 40 0.900 [0.800, 1.000] 12.500 [12.400, 12.600]".split()
    assert last.split() == "last lungs 40 0.875 [0.775, 0.975] 130.250 [130.150, 130.350]".split()
    assert title.index("hd") == best.index("12.500") == last.index("130.250")
    title, best = classification.splitlines()
    assert title.split() == ["Classification", "data", "set", "n", "accuracy", "auroc"]
    assert best.split() == "best chests 120 0.800 [0.700, 0.900] 0.850 [0.750, 0.950]".split()


def read_cells(text):
    """Results as `{checkpoint: {data set: {metric: entry}}}` from a printed table."""
    results = {}
    for table in text.split("\n\n"):
        (_, _, _, *names), *lines = [re.split(r"  +", line) for line in table.splitlines()]
        for checkpoint, data_set, n, *cells in lines:
            entries = [[float(number) for number in re.findall(r"[\d.]+", c)] for c in cells]
            results.setdefault(checkpoint, {})[data_set] = {
                name: {"mean": mean, "ci95": [low, high], "n": int(n)}
                for name, (mean, low, high) in zip(names, entries, strict=True)
            }
    return results


def test_the_table_of_the_readme():
    """Character for character, from the numbers that stand there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    printed = text[text.index("Segmentation  data set") :].partition("```")[0]
    assert tables.of_run(read_cells(printed.strip())) == printed


def test_each_head_has_a_line():
    results = {"best": {"hearts": {"dice": entry(0.8), "sdf/dice": entry(0.7)}}}
    _, first, second = tables.of_run(results).splitlines()
    assert first.startswith("best  ") and "0.800 [" in first
    assert second.startswith("best, sdf  ") and "0.700 [" in second


def test_the_name_of_a_class_may_hold_a_slash():
    summary = {"accuracy": 1, "f1_pleural/other": 2, "average/dice": 3}
    assert record.by_head(summary) == {
        Head.MASK: {"accuracy": 1, "f1_pleural/other": 2},
        Head.MASK_AVERAGE: {"dice": 3},
    }


def test_table_of_one_task():
    results = {"best": {"lungs": RESULTS["best"]["lungs"]}, "last": {}}
    assert "Classification" not in tables.of_run(results)
    assert tables.of_run({"best": {}, "last": {}}) == ""


def test_a_set_without_the_metric_of_another_has_a_dash():
    results = {
        "best": {"a": {"accuracy": entry(0.5), "auroc": entry(0.6)}, "b": {"accuracy": entry(1)}}
    }
    assert tables.of_run(results).splitlines()[2].split()[-1] == "-"


def test_overview(runs):
    """A line for each system and budget, a column for each set and metric, those of masks first."""
    rows = compare.summarize(groups.group_runs(record.find_runs([runs])))
    text = tables.overview(rows)
    _, best, last = text.split("### Overview, ")
    assert best.startswith("best checkpoint") and last.startswith("last checkpoint")
    header, _, *lines = [" ".join(line.split()) for line in last.strip().splitlines()[2:]]
    assert "| seeds | jsrt dice | chex accuracy | chex auroc |" in header
    (umtl,) = [line for line in lines if line.startswith("| umtl | 32 ")]
    (row,) = [
        row
        for row in rows
        if (row["system"], row["checkpoint"], row["metric"]) == ("umtl", "last", "dice")
    ]
    assert f"| {row['mean']:.3f} ± {row['std']:.3f} |" in umtl
    assert any(line.startswith("| baseline | 32 ") for line in lines)


def test_figures_of_each_class_name_it(runs):
    """In a table of their own, but for F1 of two classes, as published."""
    rows = compare.summarize(groups.group_runs(record.find_runs([runs])))
    auroc = next(row for row in rows if (row["metric"], row["system"]) == ("auroc", "umtl"))
    names = ("accuracy", "f1_well", "f1_ill", "average_precision_well", "average_precision_ill")
    mean = lambda name: 0.25 if name.endswith("well") else 0.75
    auroc = auroc | {"system": "mine", "std": None}
    rows = [{**auroc, "metric": name, "mean": mean(name)} for name in names]
    text = tables.by_data_set(rows).strip()
    titles = [line for line in text.splitlines() if line.startswith("### ")]
    assert titles[1] == f"{titles[0]}, by class"
    whole, each = [part.split() for part in text.split("### ")[1:]]
    assert {"accuracy", "f1_well", "f1_ill"} < set(whole) and "average_precision" not in whole
    assert "average_precision" in each and "f1" not in each
    lines = [line.split("|")[1].strip() for line in text.splitlines()[-2:]]
    assert lines == ["well", "ill"] and text.splitlines()[-1].count("0.750 [") == 1
    rows += [{**rows[1], "metric": "f1_odd"}]
    assert "f1_well" not in tables.by_data_set(rows)


def test_the_title_counts_images_of_masks_and_classes_apart(runs):
    """Where they are others, as in a folder of one's own; Dice is not of all that have a class."""
    rows = compare.summarize(groups.group_runs(record.find_runs([runs])))
    auroc = next(row for row in rows if (row["metric"], row["system"]) == ("auroc", "umtl"))
    accuracy = auroc | {"metric": "accuracy", "n": 7}
    titles = lambda n: tables.by_data_set([auroc | {"metric": "dice", "n": n}, accuracy])
    assert "checkpoint (masks of 2 images, classes of 7, " in titles(2)
    assert "checkpoint (7 images, " in titles(7)


def test_warnings_name_their_runs(runs):
    text = tables.warnings(record.find_runs([runs, f"mine={runs / 'unet_0'}"]))
    names = "unet_0, unet_1, "
    assert text.startswith("### Warnings\n\n* jsrt: a word of caution (umtl_0, umtl_1, umtl_s_0, ")
    assert text.endswith(f"{names}mine)\n") and text.count("* ") == 1


def test_latex(runs):
    rows = compare.summarize(groups.group_runs(record.find_runs([runs])))
    lines = [" ".join(line.split()) for line in tables.latex(rows, "last").splitlines()]
    assert lines[0] == r"\begin{tabular}{llcc}"
    assert lines[3] == r"System & Labels & Acc & Dice \\"
    (umtl,) = [line for line in lines if line.startswith(r"umtl\_s & 100/10 & $")]
    assert re.fullmatch(r".*\$0\.\d{3} \{\\pm\} 0\.\d{3}\$ & \$0\.\d{3}.*\$ \\\\", umtl)
    assert any(line.startswith(r"unet & --/10 & & $0.") for line in lines)
    assert lines[-1] == r"\end{tabular}"


def test_latex_of_external_test_sets_alone(tmp_path):
    write_run(tmp_path, "umtl", 0, seg_data="x", cls_data="y")
    rows = compare.summarize(groups.group_runs(record.find_runs([tmp_path])))
    assert r"\multicolumn{2}{c}{cross-domain}" in tables.latex(rows, "last")
    assert "in-domain" not in tables.latex(rows, "last")


EVIL = "a|$b$_#%&{}<i>\\~^\n"


def test_names_are_no_markup(tmp_path):
    text = tables.markdown(["x|y", "<b>"], [[EVIL, "z"]], "<i>\n#")
    assert "### &lt;i> #\n" in text and "| x\\|y " in text and "| &lt;b> " in text
    assert text.splitlines()[-1].startswith("| a\\|$b$_#%&{}&lt;i>\\~^ | z")
    write_run(tmp_path, "umtl", 0)
    run = dataclasses.replace(record.read_run(tmp_path / "umtl_0"), label=EVIL)
    rows = compare.summarize(groups.group_runs([run]))
    name = (
        r"a\textbar{}\$b\$\_\#\%\&\{\}\textless{}i\textgreater{}\textbackslash{}\textasciitilde{}"
        r"\textasciicircum{}"
    )
    assert f"\n {name} " in tables.latex(rows, "last")
    assert "  f1_a b\n" in tables.of_run(
        {"best": {"s": {"accuracy": entry(1), "f1_a\nb": entry(1)}}}
    )


def test_lengths_of_training_are_kept_apart(tmp_path):
    write_run(tmp_path, "umtl", 0, dice=0.6)
    write_run(tmp_path, "umtl", 1, dice=0.9, steps=99)
    rows = compare.summarize(groups.group_runs(record.find_runs([tmp_path])))
    for text in (tables.by_data_set(rows), tables.latex(rows, "last")):
        assert sum("umtl" in line for line in text.splitlines()) % 2 == 0
        assert len({line for line in text.splitlines() if "umtl" in line}) >= 2


def test_published_rows():
    """Against the printed table, and its own arithmetic: F1 and budgets."""
    assert len(published.rows()) == 16
    last = published.figures("multimix", "all", "all", "jsrt")
    assert last == {
        **{"accuracy": 0.843, "f1_normal": 0.740, "f1_pneumonia": 0.890},
        **{"dice": 0.975, "ssim": 0.960, "ahd": 0.528},
        **{"jaccard": 0.952, "precision": 0.970, "recall": 0.982},
    }
    other = {"accuracy": 0.520, "dice": 0.943, "ssim": 0.937, "ahd": 0.417}
    assert published.figures("multimix", "all", "all", "nihx") == other
    assert published.figures("unet", None, "10", "mcu") == {
        "dice": 0.555,
        "ssim": 0.68,
        "ahd": 8.691,
    }
    assert published.figures("unet", None, "77", "jsrt") == {}
    assert published.figures("unet", None, "10", "phantom_seg_a") == {}
