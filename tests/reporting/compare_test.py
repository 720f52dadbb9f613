"""Tests of multimix_jax.reporting.compare."""

import csv
import json

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from multimix_jax.errors import UsageError
from multimix_jax.reporting import compare, groups, pairs, tables
from multimix_jax.runs import record
from tests.finished_runs import CHESTS, LABELS, LUNGS, STEPS, write_run


def groups_of(folder):
    return groups.group_runs(record.find_runs([folder]))


def column(path, checkpoint, data_set, name):
    with (path / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = (checkpoint, data_set)
    return np.array([float(r[name]) for r in rows if (r["checkpoint"], r["data_set"]) == wanted])


def only(rows, **fields):
    (row,) = [row for row in rows if fields.items() <= row.items()]
    return row


def test_mean_and_spread_over_seeds(tmp_path):
    paths = [write_run(tmp_path, "multimix", seed) for seed in (0, 1, 2)]
    rows = compare.summarize(groups_of(tmp_path))
    row = only(rows, metric="dice", checkpoint="last")
    per_image = np.stack([column(path, "last", "jsrt", "dice") for path in paths])
    assert row["mean"] == pytest.approx(per_image.mean())
    assert row["std"] == pytest.approx(per_image.mean(1).std(ddof=1))
    assert row["values"] == pytest.approx(per_image.mean(1))
    # The interval of the mean over images, of each image's mean over seeds.
    error = per_image.mean(0).std() / np.sqrt(LUNGS)
    interval = per_image.mean() + np.array([-1.96, 1.96]) * error
    assert row["ci95"] == pytest.approx(interval, abs=1e-3)
    described = {key: row[key] for key in ("system", "size", "steps", "seg_labels", "cls_labels")}
    assert list(described.values()) == ["multimix", 32, STEPS, "10", "100"]
    assert (row["seeds"], row["n"], row["in_domain"]) == ([0, 1, 2], LUNGS, True)


def test_interval_of_a_metric_of_the_whole_set(tmp_path):
    """Of the mean AUROC over seeds, all seeds seeing the same images drawn anew."""
    paths = [write_run(tmp_path, "enc", seed) for seed in (0, 1)]
    row = only(compare.summarize(groups_of(tmp_path)), metric="auroc", checkpoint="best")
    ill = [column(path, "best", "chex", "probability_ill") for path in paths]
    # The share of pairs of an ill and a well image, drawn as often, that are told apart.
    right = np.mean([(np.sign(np.subtract.outer(p, p)) + 1) / 2 for p in ill], axis=0)
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(2000):
        count = np.bincount(rng.integers(0, CHESTS, CHESTS), minlength=CHESTS)
        pairs = np.outer(count * (LABELS == 1), count * (LABELS == 0))
        drawn.append((right * pairs).sum() / pairs.sum())
    assert row["ci95"] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.02)
    assert row["mean"] == pytest.approx(np.mean([roc_auc_score(LABELS, p) for p in ill]))


def test_one_seed_has_no_spread(tmp_path):
    write_run(tmp_path, "unet", 3)
    row = only(compare.summarize(groups_of(tmp_path)), metric="dice", checkpoint="last")
    assert row["std"] is None
    assert (row["cls_labels"], row["seg_labels"]) == (None, "10")


def test_the_baseline_answer_is_there_once(tmp_path):
    for method in ("unet", "umtl", "multimix"):
        write_run(tmp_path, method, 0)
    rows = compare.summarize(groups_of(tmp_path))
    dice = only(rows, system="baseline", metric="dice")
    assert dice["mean"] == 0.5
    assert (dice["checkpoint"], dice["seg_labels"], dice["cls_labels"]) == ("baseline", "10", None)
    assert only(rows, system="baseline", metric="auroc")["mean"] == 0.5


def test_what_a_part_adds(tmp_path):
    ours = [write_run(tmp_path, "umtl_s", seed, dice=0.93) for seed in (0, 1)]
    theirs = [write_run(tmp_path, "umtl", seed, dice=0.9, draw=seed + 5) for seed in (0, 1)]
    row = only(compare.compare(groups_of(tmp_path)), metric="dice", checkpoint="last")
    assert (row["adds"], row["system"], row["to"]) == ("bridge", "umtl_s", "umtl")
    a, b = (
        np.stack([column(path, "last", "jsrt", "dice") for path in paths])
        for paths in (ours, theirs)
    )
    assert row["difference"] == pytest.approx(a.mean() - b.mean())
    assert row["by_seed"] == {n: pytest.approx((a[n] - b[n]).mean()) for n in (0, 1)}
    assert row["ci95"][0] < row["difference"] < row["ci95"][1]
    assert row["p"] < 0.001
    assert row["p_holm"] >= row["p"]


def test_against_one_system(tmp_path):
    """Whatever they differ in; and with its own other budgets."""
    write_run(tmp_path, "multimix", 0, dice=0.95)
    write_run(tmp_path, "unet", 0, dice=0.9, learning_rate=0.5)
    write_run(tmp_path, "enc_ssl", 0)
    (tmp_path / "more").mkdir()
    write_run(tmp_path / "more", "multimix", 0, dice=0.97, seg_labels="all", cls_labels="all")
    write_run(tmp_path / "more", "unet", 0, seg_labels="50")
    (tmp_path / "longer").mkdir()
    write_run(tmp_path / "longer", "umtl", 0, steps=2 * STEPS)
    folders = [tmp_path, tmp_path / "more", tmp_path / "longer"]
    grouped = groups.group_runs(record.find_runs(folders))
    rows = compare.compare(grouped, "multimix")
    assert {(row["adds"], row["system"], row["cls_labels"], row["to"]) for row in rows} == {
        ("", "multimix", "100", "unet"),
        ("", "multimix", "100", "enc_ssl"),
        ("", "multimix", "100", "all/all"),
    }
    assert only(rows, to="unet", metric="dice", checkpoint="last")["difference"] > 0.03
    assert only(rows, to="all/all", metric="dice", checkpoint="last")["difference"] < 0
    assert "### Differences, last checkpoint" in tables.comparisons(rows)
    with pytest.raises(UsageError, match="--against=best is none of the systems: enc_ssl, multi"):
        compare.compare(grouped, "best")


def test_p_agrees_with_the_t_test(tmp_path):
    ours = [write_run(tmp_path, "umtl_s", seed, dice=0.902) for seed in (0, 1)]
    theirs = [write_run(tmp_path, "umtl", seed, dice=0.9, draw=seed + 9) for seed in (0, 1)]
    row = only(compare.compare(groups_of(tmp_path)), metric="dice", checkpoint="last")
    a, b = (
        np.mean([column(path, "last", "jsrt", "dice") for path in paths], axis=0)
        for paths in (ours, theirs)
    )
    assert row["p"] == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.03)


def test_only_common_seeds_are_compared(tmp_path):
    for seed in (0, 1, 2):
        write_run(tmp_path, "umtl_s", seed, dice=0.9 - 0.1 * seed)
    write_run(tmp_path, "umtl", 0, dice=0.9, draw=9)
    row = only(compare.compare(groups_of(tmp_path)), metric="dice", checkpoint="last")
    assert (row["seeds"], list(row["by_seed"])) == ([0], [0])
    assert row["difference"] == row["by_seed"][0] == pytest.approx(0, abs=0.02)
    assert row["p"] is None  # one seed says nothing of systems
    write_run(tmp_path, "umtl_ssl", 7)
    assert {row["system"] for row in compare.compare(groups_of(tmp_path))} == {"umtl_s"}


def test_other_settings_are_not_compared(tmp_path):
    write_run(tmp_path, "umtl_s", 0, learning_rate=0.5)
    write_run(tmp_path, "umtl", 0)
    assert compare.compare(groups_of(tmp_path)) == []


def rename(path, id_, other):
    file = path / "per_image.csv"
    file.write_text(file.read_text().replace(f",{id_},", f",{other},"))


def test_images_that_both_were_tested_on_are_compared(tmp_path):
    ours, theirs = write_run(tmp_path, "umtl_s", 0), write_run(tmp_path, "umtl", 0, draw=3)
    rename(theirs, "l3", "other")
    grouped = groups_of(tmp_path)
    row = only(compare.compare(grouped), metric="dice", checkpoint="last")
    a, b = (np.delete(column(path, "last", "jsrt", "dice"), 3) for path in (ours, theirs))
    assert row["difference"] == pytest.approx((a - b).mean())
    assert row["n"] == LUNGS - 1
    assert "jsrt: 29 test images in common, of 30 and 30." in pairs.in_words(grouped)


def labelled(**paths):
    return groups.group_runs(record.find_runs([f"{k}={path}" for k, path in paths.items()]))


def test_runs_with_labels_are_compared_whatever_they_differ_in(tmp_path):
    short = write_run(tmp_path, "multimix", 0, dice=0.95)
    long = write_run(tmp_path, "multimix", 1, learning_rate=0.5, steps=2 * STEPS)
    grouped = labelled(short=short, long=long)
    rows = compare.compare(grouped)
    row = only(rows, metric="dice", checkpoint="last")
    assert (row["system"], row["to"], row["n"], row["p"]) == ("short", "long", LUNGS, None)
    a, b = (column(path, "last", "jsrt", "dice") for path in (short, long))
    assert row["difference"] == pytest.approx((a - b).mean())
    assert row["by_seed"] == {"0/1": row["difference"]}
    assert {row["metric"] for row in rows} == {"dice", "accuracy", "auroc"}
    differing = "differ in learning_rate (0.001 and 0.5), steps (40 and 80), seed (0 and 1)."
    assert differing in pairs.in_words(grouped)
    assert "not compared" not in pairs.in_words(grouped)
    assert {row["system"] for row in compare.compare(grouped, "long")} == {"long"}


def test_images_of_one_name_with_other_classes_are_not_compared(tmp_path):
    paths = [write_run(tmp_path, "multimix", seed) for seed in (0, 1)]
    rename(paths[1], "c0", "first")
    rename(paths[1], "c1", "c0")  # of the other class
    grouped = labelled(a=paths[0], b=paths[1])
    assert {row["metric"] for row in compare.compare(grouped)} == {"dice"}
    text = pairs.in_words(grouped)
    assert "chex: the classes, since the same images have other labels." in text
    rename(paths[1], "l", "m")
    file = paths[1] / "per_image.csv"
    file.write_text(file.read_text().replace(",l", ",m").replace(",c", ",d"))
    grouped = labelled(a=paths[0], b=paths[1])
    assert compare.compare(grouped) == []
    assert "no test image of jsrt in common." in pairs.in_words(grouped)


def test_what_is_not_compared_is_said(tmp_path):
    write_run(tmp_path, "umtl", 0)
    write_run(tmp_path, "multimix", 0)
    (tmp_path / "more").mkdir()
    write_run(tmp_path / "more", "multimix", 0, steps=2 * STEPS)
    write_run(tmp_path / "more", "umtl_s", 1)
    grouped = groups.group_runs(record.find_runs([tmp_path, tmp_path / "more"]))
    assert compare.compare(grouped) == []
    said = [line for line in pairs.in_words(grouped).splitlines() if line.startswith("* ")]
    assert said == [
        "* umtl_s (32, 40 steps, 100/10) and umtl (32, 40 steps, 100/10): they have no seed in "
        "common (1 and 0).",
        "* multimix (32, 40 steps, 100/10) and multimix (32, 80 steps, 100/10): differ in steps "
        "(40 and 80).",
        "* 4 pairs of systems differ in more than one part.",
        f"* {pairs.AGAINST}; {pairs.LABELS}.",
    ]


def test_a_label_stands_for_one_system(tmp_path):
    paths = [write_run(tmp_path, method, 0) for method in ("umtl", "umtl_s")]
    with pytest.raises(UsageError, match=r"are both a, but differ in .*give each a label: multi"):
        labelled(a=tmp_path)
    with pytest.raises(UsageError, match="the label 'umtl' is also the name of a system"):
        groups.group_runs(record.find_runs([paths[0], f"umtl={paths[1]}"]))


def blank(path, id_, names):
    """Takes the figures of an image out of a run, as of one without a mask or a label."""
    file = path / "per_image.csv"
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    for row in rows:
        if row["id"] == id_:
            row.update(dict.fromkeys(names, ""))
    record.write_csv(path / "per_image.csv", rows)


def test_images_without_a_mask_or_a_label_do_not_count(tmp_path):
    for method in ("umtl", "umtl_s"):
        for seed in (0, 1):
            path = write_run(tmp_path, method, seed, draw=seed + len(method))
            blank(path, "l3", ["dice"])
            blank(path, "c5", ["label", "probability_well", "probability_ill"])
    grouped = groups_of(tmp_path)
    by_metric = {
        row["metric"]: row for row in compare.compare(grouped) if row["checkpoint"] == "last"
    }
    assert {name: row["n"] for name, row in by_metric.items()} == {
        **{"dice": LUNGS - 1, "accuracy": CHESTS - 1, "auroc": CHESTS - 1},
    }
    values = [row["difference"] for row in by_metric.values()]
    assert np.isfinite([*values, *by_metric["dice"]["ci95"], by_metric["dice"]["p"]]).all()
    assert np.isfinite([row["mean"] for row in compare.summarize(grouped)]).all()


def test_one_class_has_no_auroc_to_compare(tmp_path):
    for method in ("enc", "enc_ssl"):
        path = write_run(tmp_path, method, 0)
        file = path / "per_image.csv"
        lines = [line for line in file.read_text().splitlines() if ",1," not in line]
        file.write_text("\n".join(lines) + "\n")
    rows = compare.compare(groups_of(tmp_path))
    assert {row["metric"] for row in rows} == {"accuracy"}


def test_systems_are_compared_where_one_part_differs(tmp_path):
    for method in ("unet", "enc", "umtl", "umtl_s", "umtl_ssl", "multimix"):
        write_run(tmp_path, method, 0)
    rows = compare.compare(groups_of(tmp_path))
    pairs = {(row["adds"], row["system"], row["to"], row["metric"]) for row in rows}
    assert pairs == {
        ("classifier", "umtl", "unet", "dice"),
        ("decoder", "umtl", "enc", "accuracy"),
        ("decoder", "umtl", "enc", "auroc"),
        ("bridge", "umtl_s", "umtl", "dice"),
        ("bridge", "umtl_s", "umtl", "accuracy"),
        ("bridge", "umtl_s", "umtl", "auroc"),
        ("pseudo-labels", "umtl_ssl", "umtl", "dice"),
        ("pseudo-labels", "umtl_ssl", "umtl", "accuracy"),
        ("pseudo-labels", "umtl_ssl", "umtl", "auroc"),
    }


def test_difference_of_auroc(tmp_path):
    write_run(tmp_path, "enc_ssl", 0, noise=0.1)
    write_run(tmp_path, "enc", 0, noise=0.5, draw=3)
    row = only(compare.compare(groups_of(tmp_path)), metric="auroc", checkpoint="last")
    better, worse = (
        roc_auc_score(LABELS, column(tmp_path / name, "last", "chex", "probability_ill"))
        for name in ("enc_ssl_0", "enc_0")
    )
    assert row["difference"] == row["by_seed"][0] == pytest.approx(better - worse)
    assert row["ci95"][0] < row["difference"] < row["ci95"][1]
    assert (row["p"], row["p_holm"], row["n"]) == (None, None, CHESTS)


def test_holm():
    # By hand: .01 * 3, then .02 * 2, then .03 * 1 lifted to the one before.
    assert compare.holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    assert compare.holm([0.9, 0.8]) == [1.0, 1.0]


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(tmp_path):
    write_run(tmp_path, "umtl", 0)
    write_run(tmp_path, "umtl", 1, learning_rate=0.5)
    with pytest.raises(UsageError, match="umtl_0 and .*umtl_1 are both .* differ in learning_rate"):
        groups_of(tmp_path)


def test_runs_on_other_own_files_are_not_averaged(tmp_path):
    write_run(tmp_path, "umtl", 0, contents={"images": "abc"}, **{"folder.images": "here"})
    write_run(tmp_path, "umtl", 1, contents={"images": "abc"}, **{"folder.images": "there"})
    assert len(groups_of(tmp_path)) == 1
    write_run(tmp_path, "umtl", 2, contents={"images": "def"})
    with pytest.raises(UsageError, match=r"umtl_0 and .*umtl_2 are .* differ in own images"):
        groups_of(tmp_path)


def test_systems_are_compared_on_the_same_own_files_as_far_as_they_have_them(tmp_path):
    files = {"images": "abc", "masks": "def", "labels": ""}
    write_run(tmp_path, "unet", 0, contents=files)
    write_run(tmp_path, "umtl", 0, contents=files | {"labels": "ghi"})
    assert groups.comparable(*groups_of(tmp_path))
    write_run(tmp_path, "enc", 0, contents=files | {"masks": "other"})
    systems = {group.system: group for group in groups_of(tmp_path)}
    assert not groups.comparable(systems["enc"], systems["umtl"])


def test_the_same_run_twice(tmp_path):
    path = write_run(tmp_path, "umtl", 0)
    with pytest.raises(UsageError, match="differ in nothing"):
        groups.group_runs(record.find_runs([path, path]))


def test_other_test_images_are_refused(tmp_path):
    write_run(tmp_path, "umtl", 0)
    file = write_run(tmp_path, "umtl", 1) / "per_image.csv"
    file.write_text(file.read_text().replace(",l3,", ",other,"))
    with pytest.raises(UsageError, match=r"umtl_1 was tested on other images .* give each a label"):
        compare.summarize(groups_of(tmp_path))


def test_unfinished_runs_are_left_out(tmp_path, capsys):
    write_run(tmp_path, "umtl", 0)
    other = write_run(tmp_path, "umtl", 1)
    results = json.loads((other / "results.json").read_text())
    results["run"]["last"]["step"] = 3
    (other / "results.json").write_text(json.dumps(results))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "results.json").write_text("[]")
    assert [run.config["seed"] for run in record.find_runs([tmp_path])] == [0]
    assert capsys.readouterr().err == f"{other} is not finished: left out\n"
    with pytest.raises(UsageError, match="umtl_1 is not trained to its end; finish it"):
        record.find_runs([other])


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(UsageError, match=rf"^{tmp_path} holds no results .*finish the run"):
        record.find_runs([tmp_path])
