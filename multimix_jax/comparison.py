"""Systems compared: runs of several seeds together, and one system against another."""

import csv
import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from multimix_jax import metrics, workdir
from multimix_jax.errors import UsageError
from multimix_jax.workdir import BEST, LAST, TRIVIAL

RESAMPLES = 10_000
# What may differ between runs that are averaged; budgets that matter are compared beforehand.
_FREE = ("seed", "seg_labels", "cls_labels", *workdir.FREE_KEYS)


@dataclasses.dataclass(frozen=True)
class Images:
    """Figures of each image of a test set under one checkpoint.

    Attributes:
      ids: N names, in the order of the set.
      columns: float [N] by metric or other column; NaN where an image has none.
    """

    ids: tuple[str, ...]
    columns: Mapping[str, np.ndarray]

    @property
    def class_names(self) -> list[str]:
        """In the order of the labels."""
        prefix = "probability_"
        return [n.removeprefix(prefix) for n in self.columns if n.startswith(prefix)]

    @property
    def labels(self) -> np.ndarray:
        """int [N]; all images of a set with classes have one."""
        return self.columns["label"].astype(int)

    @property
    def probabilities(self) -> np.ndarray:
        """[N,K]."""
        return np.stack([self.columns[f"probability_{name}"] for name in self.class_names], 1)


@dataclasses.dataclass(frozen=True)
class Example:
    """Some images of a test set, and the masks that a run found.

    Attributes:
      ids: n names.
      images: uint8 [n,H,W,C].
      truths: bool [n,H,W,C'].
      masks: the same, predicted, by checkpoint.
    """

    ids: Sequence[str]
    images: np.ndarray
    truths: np.ndarray
    masks: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What a finished run left behind.

    Attributes:
      path: its folder.
      config, results: its files.
      images: figures per image by (checkpoint, data set).
    """

    path: pathlib.Path
    config: Mapping[str, Any]
    results: Mapping[str, Any]
    images: Mapping[tuple[str, str], Images]

    @property
    def budget(self) -> tuple[str | None, str | None]:
        """Class labels and masks, None for a task that the system lacks."""
        model, c = self.config["model"], self.config
        return (
            c["cls_labels"] if model["use_classifier"] else None,
            c["seg_labels"] if model["use_decoder"] else None,
        )

    @property
    def parts(self) -> frozenset[str]:
        """What the system consists of."""
        model, terms = self.config["model"], self.config["objective"]
        has = {
            "classifier": model["use_classifier"],
            "decoder": model["use_decoder"],
            "bridge": model["use_bridge"],
            "gradient through the bridge": model["use_bridge"] and model["bridge_gradient"],
            "pseudo-labels": model["use_classifier"] and terms["pseudo_label_weight"] > 0,
            "KL": model["use_decoder"] and terms["kl_weight"] > 0,
        }
        return frozenset(name for name, there in has.items() if there)

    @functools.cached_property
    def history(self) -> list[dict[str, Any]]:
        """Lines of `metrics.jsonl`."""
        lines = (self.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @functools.cached_property
    def histograms(self) -> dict[str, np.ndarray]:
        """How many pixels of each test set have each intensity, int64 [256]."""
        file = self._examples
        names = [name.removesuffix("/histogram") for name in file if "/histogram" in name]
        return {name: file[f"{name}/histogram"] for name in names}

    @functools.cached_property
    def examples(self) -> dict[str, Example]:
        """Some images of each test set for which the system finds masks."""
        file = self._examples
        return {
            name: Example(
                ids=file[f"{name}/id"].tolist(),
                images=file[f"{name}/image"],
                truths=file[f"{name}/truth"],
                masks={at: file[f"{name}/{at}"] for at in (BEST, LAST) if f"{name}/{at}" in file},
            )
            for name in (key.removesuffix("/truth") for key in file if "/truth" in key)
        }

    @functools.cached_property
    def _examples(self) -> dict[str, np.ndarray]:
        path = self.path / workdir.EXAMPLES
        if not path.exists():
            raise UsageError(f"{path} is missing; evaluate that run again with --mode=eval")
        with np.load(path) as file:
            return dict(file)

    def trained_on(self, data_set: str) -> bool:
        """Whether a test set is of a hospital that was trained on."""
        return data_set in (self.config["seg_data"], self.config["cls_data"])


def find_runs(paths: Sequence[str | pathlib.Path]) -> list[FinishedRun]:
    """The runs in some folders; a folder of runs, such as a grid's, stands for its finished ones.

    Raises:
      UsageError: a folder holds neither.
    """
    found = []
    for path in map(pathlib.Path, paths):
        below = sorted(file.parent for file in path.glob(f"*/{workdir.RESULTS}"))
        if (path / workdir.CONFIG).exists() or not below:
            found.append(read_run(path))
        else:
            found += [read_run(folder) for folder in below]
    return found


def read_run(path: pathlib.Path) -> FinishedRun:
    """What a finished run left behind.

    Raises:
      UsageError: the folder holds no results.
    """
    try:
        config, results = (
            json.loads((path / name).read_text(encoding="utf-8"))
            for name in (workdir.CONFIG, workdir.RESULTS)
        )
        images = _read_images(path / workdir.PER_IMAGE)
    except OSError as error:
        raise UsageError(
            f"{path} holds no results ({error.filename} is missing); finish the run with "
            "launch.py first"
        ) from error
    return FinishedRun(path, config, results, images)


def _read_images(path: pathlib.Path) -> dict[tuple[str, str], Images]:
    lines: dict[tuple[str, str], list[dict[str, str]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            key = line.pop("checkpoint"), line.pop("data_set")
            lines.setdefault(key, []).append(line)
    images = {}
    for key, rows in lines.items():
        names = [n for n in rows[0] if n != "id" and any(row[n] for row in rows)]
        columns = {n: np.array([float(row[n] or "nan") for row in rows]) for n in names}
        images[key] = Images(tuple(row["id"] for row in rows), columns)
    return images


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one system and budget that differ in their seed alone."""

    runs: Sequence[FinishedRun]

    @property
    def system(self) -> str:
        return self.runs[0].config["system"]

    @property
    def budget(self) -> tuple[str | None, str | None]:
        """Class labels and masks, None for a task that the system lacks."""
        return self.runs[0].budget

    def tested(self, checkpoint: str, data_set: str) -> list[tuple[FinishedRun, Images]]:
        """The runs of which there are figures, and these.

        Raises:
          UsageError: the runs were tested on different images.
        """
        key = checkpoint, data_set
        found = [(run, run.images[key]) for run in self.runs if key in run.images]
        for run, images in found[1:]:
            first, others = found[0]
            if images.ids != others.ids:
                raise UsageError(
                    f"{run.path} was tested on other images of {data_set} than {first.path}; "
                    "give both the same data and the same config.split_seed"
                )
        return found

    @property
    def tests(self) -> list[tuple[str, str]]:
        """Every (checkpoint, data set) of which a run has figures."""
        return list(dict.fromkeys(key for run in self.runs for key in run.images))

    @property
    def described(self) -> dict[str, Any]:
        """What identifies the group in a table."""
        labels, masks = self.budget
        config = self.runs[0].config
        return {
            "system": self.system,
            "size": config["size"],
            "steps": config["steps"],
            "seg_labels": masks,
            "cls_labels": labels,
        }


def group_runs(runs: Iterable[FinishedRun]) -> list[Group]:
    """Runs of one system, size and budget together; systems of few parts, then few labels, first.

    Raises:
      UsageError: two of a group differ in more than their seed.
    """
    groups: dict[tuple[Any, ...], list[FinishedRun]] = {}
    for run in runs:
        key = (run.config["system"], run.config["size"], run.config["steps"], run.budget)
        groups.setdefault(key, []).append(run)
    for members in groups.values():
        first = members[0]
        for run in members[1:]:
            differing = [
                name
                for name in sorted(set(first.config) | set(run.config))
                if name not in _FREE and first.config.get(name) != run.config.get(name)
            ]
            if differing or run.config["seed"] == first.config["seed"]:
                raise UsageError(
                    f"{first.path} and {run.path} are both {first.config['system']} on the same "
                    f"budget, but differ in {', '.join(differing) or 'nothing'}; report them "
                    "apart, or give one a name of its own (config.system)"
                )
    found = [Group(sorted(runs, key=lambda run: run.config["seed"])) for runs in groups.values()]

    def order(group: Group) -> tuple[Any, ...]:
        budget = [math.inf if part == "all" else int(part or 0) for part in group.budget]
        return len(group.runs[0].parts), group.system, budget

    return sorted(found, key=order)


def summarize(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A row per group, checkpoint, data set and metric; and of the trivial answers.

    Returns:
      Rows with `Group.described`, `seeds`, `checkpoint`, `data_set`, `in_domain`, `metric`, `n`
      images, `mean` over seeds of the mean over images, `std` over seeds (of the sample; None of
      one), `ci95` of the mean by drawing images anew, the same for every seed, and `values`, that
      of each seed.
    """
    rows: list[dict[str, Any]] = []
    trivial: dict[tuple[Any, ...], dict[str, Any]] = {}
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
            for metric, entry in first[2].items():
                values = np.array([summary[metric]["mean"] for *_, summary in tested])
                row = {
                    **group.described,
                    "seeds": [run.config["seed"] for run, *_ in tested],
                    "checkpoint": checkpoint,
                    "data_set": data_set,
                    "in_domain": first[0].trained_on(data_set),
                    "metric": metric,
                    "n": entry["n"],
                    "mean": float(values.mean()),
                    "std": float(values.std(ddof=1)) if len(values) > 1 else None,
                    "ci95": metrics.percentile_interval(samples[metric]),
                    "values": values.tolist(),
                }
                if checkpoint != TRIVIAL:
                    rows.append(row)
                    continue
                # The same for every system of the budget.
                other = "seg_labels" if first[1].class_names else "cls_labels"
                row |= {"system": TRIVIAL, other: None}
                key = tuple(row[name] for name in _IDENTIFYING)
                if key not in trivial or len(trivial[key]["seeds"]) < len(row["seeds"]):
                    trivial[key] = row
    return [*rows, *trivial.values()]


_IDENTIFYING = ("size", "seg_labels", "cls_labels", "data_set", "metric")


def _resampled(
    tested: Sequence[tuple[FinishedRun, Images, Mapping[str, Any]]], checkpoint: str
) -> dict[str, np.ndarray]:
    """Each metric on sets of images drawn anew [R], the mean over seeds."""
    drawn: dict[str, list[np.ndarray]] = {}
    for run, images, _ in tested:
        resampled = {
            name: metrics.mean_resamples(values[~np.isnan(values)])
            for name, values in images.columns.items()
            if name != "label" and not name.startswith("probability_")
        }
        if images.class_names:
            at = functools.partial(
                metrics.classification_resamples,
                *(images.probabilities, images.labels),
                class_names=images.class_names,
            )
            resampled |= at()
            threshold = run.results["run"].get(checkpoint, {}).get("threshold")
            if threshold is not None:
                name = "accuracy_at_validation_threshold"
                resampled[name] = at(threshold=threshold)["accuracy"]
        for name, values in resampled.items():
            drawn.setdefault(name, []).append(values)
    return {name: np.mean(values, axis=0) for name, values in drawn.items()}


def compare(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """What each part adds: systems of one budget, one of which has one part more.

    Returns:
      Rows with `adds`, the part; `system`, which has it, and `to`, which has not; size, budgets,
      `checkpoint`, `data_set`, `metric` (dice, accuracy or auroc); `difference` of the means over
      seeds, its `ci95` by drawing images anew, the same for both, `by_seed` where both have the
      seed; `p` by a paired permutation test over images (Fisher's, two-sided, on each image's mean
      over seeds; None for auroc, which no image has by itself), and `p_holm`, corrected for all
      rows of this checkpoint.
    """
    rows = []
    for more in groups:
        for less in groups:
            added = more.runs[0].parts - less.runs[0].parts
            if len(added) != 1 or less.runs[0].parts - more.runs[0].parts:
                continue
            if not comparable(more, less):
                continue
            for checkpoint, data_set in more.tests:
                if checkpoint == TRIVIAL:
                    continue
                found = {
                    metric: [_by_seed(g, checkpoint, data_set, metric) for g in (more, less)]
                    for metric in ("dice", "accuracy")
                }
                differences = {k: _difference(*both) for k, both in found.items() if all(both)}
                if "accuracy" in differences:
                    differences["auroc"] = _auroc_difference(
                        *(group.tested(checkpoint, data_set) for group in (more, less))
                    )
                row = {"adds": min(added), **more.described, "to": less.system}
                row |= {"checkpoint": checkpoint, "data_set": data_set}
                rows += [{**row, "metric": k, **entry} for k, entry in differences.items()]
    for checkpoint in (BEST, LAST):
        family = [r for r in rows if r["checkpoint"] == checkpoint and r["p"] is not None]
        for row, p in zip(family, holm([row["p"] for row in family])):
            row["p_holm"] = p
    return rows


def comparable(one: Group, other: Group) -> bool:
    """Whether size and steps are the same, and the budgets of the tasks that both have."""
    same = all(one.described[key] == other.described[key] for key in ("size", "steps"))
    return same and all(a is None or b is None or a == b for a, b in zip(one.budget, other.budget))


def _by_seed(group: Group, checkpoint: str, data_set: str, metric: str) -> dict[int, np.ndarray]:
    """A metric of each image, by seed; none where the system does not have it."""
    found = {}
    for run, images in group.tested(checkpoint, data_set):
        seed = run.config["seed"]
        if metric == "accuracy" and images.class_names:
            predicted = images.probabilities[:, 1] >= 0.5
            if len(images.class_names) > 2:
                predicted = images.probabilities.argmax(1)
            found[seed] = (predicted == images.labels).astype(float)
        elif metric in images.columns:
            found[seed] = images.columns[metric]
    return found


def _difference(ours: Mapping[int, np.ndarray], theirs: Mapping[int, np.ndarray]) -> dict[str, Any]:
    both = sorted(set(ours) & set(theirs))
    difference = np.mean(list(ours.values()), axis=0) - np.mean(list(theirs.values()), axis=0)
    test = scipy.stats.permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=1000,
        rng=np.random.default_rng(0),
    )
    return {
        "difference": float(difference.mean()),
        "ci95": metrics.percentile_interval(metrics.mean_resamples(difference)),
        "by_seed": {seed: float((ours[seed] - theirs[seed]).mean()) for seed in both},
        "n": len(difference),
        "p": float(test.pvalue),
    }


def _auroc_difference(
    ours: Sequence[tuple[FinishedRun, Images]], theirs: Sequence[tuple[FinishedRun, Images]]
) -> dict[str, Any]:
    found: list[dict[int, float]] = []
    drawn = []
    for tested in (ours, theirs):
        values, samples = {}, []
        for run, images in tested:
            if names := images.class_names:
                of_images = images.probabilities, images.labels
                auroc = metrics.classification_metrics(*of_images, class_names=names)["auroc"]
                values[run.config["seed"]] = auroc
                resampled = metrics.classification_resamples(*of_images, class_names=names)
                samples.append(resampled["auroc"])
        found.append(values)
        drawn.append(np.mean(samples, axis=0))
    both = sorted(set(found[0]) & set(found[1]))
    return {
        "difference": float(np.mean(list(found[0].values())) - np.mean(list(found[1].values()))),
        "ci95": metrics.percentile_interval(drawn[0] - drawn[1]),
        "by_seed": {seed: found[0][seed] - found[1][seed] for seed in both},
        "n": len(ours[0][1].ids),
        "p": None,
        "p_holm": None,
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for their number (Holm 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
