"""Systems compared: means over seeds, and one system against another."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from multimix_jax.evaluation import calibration, classification, intervals
from multimix_jax.names import BASELINE, Checkpoint, Task
from multimix_jax.reporting.groups import Group
from multimix_jax.reporting.pairs import Pairs, choose, paired_images
from multimix_jax.runs.record import FinishedRun, Images

RESAMPLES = 10_000
DICE = ("dice", "sdf/dice", "average/dice")  # of each head that predicts a mask
# What tells baselines apart.
_IDENTIFYING = ("size", "steps", "seg_labels", "cls_labels", "data_set", "metric")


def summarize(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A row per group, checkpoint, data set and metric; and of the baselines.

    `mean` is that over seeds of the mean over `n` images, `std` that over seeds (of the sample;
    None of one), `ci95` of the mean by drawing images anew, the same for every seed; `values` has
    that of each seed.
    """
    rows: list[dict[str, Any]] = []
    baseline: dict[tuple[Any, ...], dict[str, Any]] = {}
    for group in groups:
        for checkpoint, data_set in group.tests:
            # A system of one task has nothing to say of the other's sets.
            tested = [
                (run, images, run.results[checkpoint][data_set])
                for run, images in group.tested(checkpoint, data_set)
                if data_set in run.results.get(checkpoint, {})
            ]
            if not tested:
                continue
            first, samples = tested[0], _resampled(tested, checkpoint)
            # Some lack a metric: AUROC where there is one class alone, say.
            for metric, entry in first[2].items():
                if any(metric not in summary for *_, summary in tested):
                    continue
                values = np.array([summary[metric]["mean"] for *_, summary in tested])
                task = Task.SEG if metric in first[1].columns else Task.CLS
                row = {
                    **group.described,
                    "seeds": [run.config["seed"] for run, *_ in tested],
                    "checkpoint": checkpoint,
                    "data_set": data_set,
                    "in_domain": first[0].trained_on(data_set, task),
                    "metric": metric,
                    "n": entry["n"],
                    "mean": float(values.mean()),
                    "std": float(values.std(ddof=1)) if len(values) > 1 else None,
                    "ci95": intervals.percentile_interval(samples[metric]),
                    "values": values.tolist(),
                }
                if checkpoint != BASELINE:
                    rows.append(row)
                    continue
                # The same for every system of the budget.
                other = "seg_labels" if task == Task.CLS else "cls_labels"
                row |= {"system": BASELINE, other: None}
                key = tuple(row[name] for name in _IDENTIFYING)
                if key not in baseline or len(baseline[key]["seeds"]) < len(row["seeds"]):
                    baseline[key] = row
    return [*rows, *baseline.values()]


def _resampled(
    tested: Sequence[tuple[FinishedRun, Images, Mapping[str, Any]]], checkpoint: str
) -> dict[str, np.ndarray]:
    """Each metric on sets of images drawn anew [R], the mean over seeds."""
    drawn: dict[str, list[np.ndarray]] = {}
    for run, images, _ in tested:
        resampled = {
            name: intervals.mean_resamples(values[~np.isnan(values)])
            for name, values in images.columns.items()
            if name != "label" and not name.startswith(("label_", "probability_"))
        }
        if images.class_names:
            resampled |= calibration.metrics_with(
                run.calibration(checkpoint),
                images.probabilities,
                images.labels,
                class_names=images.class_names,
                weights=intervals.resampled_counts(len(images.labels)),
            )
        for name, values in resampled.items():
            drawn.setdefault(name, []).append(values)
    return {name: np.mean(values, axis=0) for name, values in drawn.items()}


def compare(groups: Sequence[Group], against: str | None = None) -> list[dict[str, Any]]:
    """What each part adds, or what one system has over another: the pairs of `pairs.choose`.

    A row has the part that it `adds`, or ''; the `system` which has it, and `to`, which has not (of
    the same system, the other budget); over the `seeds` that are paired, the `difference` of means
    over the `n` images that both were tested on, `by_seed`, and its `ci95` by drawing images anew,
    the same for both; `p` by a paired permutation test over images (Fisher's, two-sided, on each
    image's mean over seeds), None for one seed alone and for auroc, which no image has by itself;
    and `p_holm`, corrected for all rows of this checkpoint. All tell of other test images, not of
    other seeds.

    Raises:
      UsageError: there is no system of that name.
    """
    rows: list[dict[str, Any]] = []
    for pair in choose(groups, against):
        for checkpoint, data_set in pair.one.tests:
            paired, _ = paired_images(pair, checkpoint, data_set)
            if checkpoint == BASELINE or not paired:
                continue
            described = {"adds": pair.adds, **pair.one.described, "to": pair.to}
            described |= {"seeds": list(paired), "checkpoint": checkpoint, "data_set": data_set}
            differing = {name: _difference(paired, name) for name in (*DICE, "accuracy")}
            differing["auroc"] = _auroc_difference(paired)
            rows += [{**described, "metric": name, **one} for name, one in differing.items() if one]
    for checkpoint in (Checkpoint.BEST, Checkpoint.LAST):
        family = [r for r in rows if r["checkpoint"] == checkpoint and r["p"] is not None]
        for row, p in zip(family, holm([row["p"] for row in family])):
            row["p_holm"] = p
    return rows


def _difference(pairs: Pairs, metric: str) -> dict[str, Any] | None:
    """Of what each image has by itself; None where a system has nothing of it."""
    differences = {}
    for seed, both in pairs.items():
        if metric == "accuracy":
            values = [images.accuracy for images in both if images.class_names]
        else:
            values = [images.columns[metric] for images in both if metric in images.columns]
        if len(values) < 2:
            return None
        difference = values[0] - values[1]
        differences[seed] = difference[~np.isnan(difference)]
    mean = np.mean(list(differences.values()), axis=0)
    if not len(mean):
        return None
    p = None
    if len(pairs) > 1:
        from scipy import stats  # takes half a second, and who trains has no use for it

        test = stats.permutation_test(
            (mean,),
            np.mean,
            permutation_type="samples",
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=1000,
            rng=np.random.default_rng(0),
        )
        p = float(test.pvalue)
    by_seed = {seed: float(values.mean()) for seed, values in differences.items()}
    return _figures(mean.mean(), intervals.mean_resamples(mean), by_seed, len(mean), p)


def _auroc_difference(pairs: Pairs) -> dict[str, Any] | None:
    """None where a system says nothing of classes, or there is only one."""
    by_seed, samples = {}, []
    for seed, both in pairs.items():
        if not all(images.class_names for images in both):
            return None
        ours, theirs = (_auroc(images) for images in both)
        by_seed[seed] = ours[0] - theirs[0]
        samples.append(ours[1] - theirs[1])
    if np.isnan(list(by_seed.values())).any():
        return None
    mean = np.mean(list(by_seed.values()))
    return _figures(mean, np.mean(samples, axis=0), by_seed, len(both[0].labels))


def _figures(
    mean: np.floating,
    samples: np.ndarray,
    by_seed: Mapping[int | str, float],
    n: int,
    p: float | None = None,
) -> dict[str, Any]:
    ci95 = intervals.percentile_interval(samples)
    row = {"difference": float(mean), "ci95": ci95, "by_seed": by_seed, "n": n}
    return {**row, "p": p, "p_holm": None}


def _auroc(images: Images) -> tuple[float, np.ndarray]:
    """AUROC, and on sets of images drawn anew [R]."""
    measure = functools.partial(
        classification.classification_metrics,
        images.probabilities,
        images.labels,
        class_names=images.class_names,
    )
    drawn = measure(weights=intervals.resampled_counts(len(images.labels)))
    return measure()["auroc"], drawn["auroc"]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for their number (Holm 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
