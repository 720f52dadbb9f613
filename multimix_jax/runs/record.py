"""What a run leaves behind: its files, written and read again in one place."""

import contextlib
import csv
import dataclasses
import functools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from multimix_jax import atomic
from multimix_jax.errors import UsageError
from multimix_jax.evaluation import classification
from multimix_jax.evaluation.calibration import Calibration
from multimix_jax.evaluation.evaluate import EvalSet
from multimix_jax.inference.appearance import Appearance
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Checkpoint, Component, Head, Task
from multimix_jax.runs import picture_files, workdir
from multimix_jax.runs.picture_files import Gallery, Picture
from multimix_jax.runs.spec import RunSpec


class Unfinished(UsageError):
    """A run has not come to its end."""


@dataclasses.dataclass(frozen=True)
class Images:
    """Figures of each image of a test set under one checkpoint."""

    ids: tuple[str, ...]  # N, in the order of the set
    columns: Mapping[str, np.ndarray]  # float [N] by metric and so on; NaN where an image has none

    @property
    def class_names(self) -> list[str]:
        """In the order of the labels; [] where no classes are predicted."""
        prefix = "probability_"
        return [n.removeprefix(prefix) for n in self.columns if n.startswith(prefix)]

    @property
    def labels(self) -> np.ndarray:
        """int [n] of the images that have one; of independent classes [n,K] of 0 and 1, -1 where
        unknown."""
        labels = self._labels[self._labeled]
        return np.where(np.isnan(labels), -1, labels).astype(int)

    @property
    def probabilities(self) -> np.ndarray:
        """[n,K] of the images that have a label."""
        return self._by_class("probability")[self._labeled]

    @property
    def correct(self) -> np.ndarray:
        """float [N], 1 where the class is right at .5, the share of the known independent classes
        that are, NaN without a label."""
        return self._of_labeled(classification.share_right)

    @property
    def accuracy(self) -> np.ndarray:
        """float [N], of which the mean is the accuracy at .5; NaN without a label."""
        return self._of_labeled(classification.accuracy_of_each)

    def _of_labeled(self, measure: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        values = np.full(len(self.ids), np.nan)
        values[self._labeled] = measure(self.probabilities, self.labels)
        return values

    def _by_class(self, what: str) -> np.ndarray:
        unknown = np.full(len(self.ids), np.nan)  # a class may be known of no image
        columns = [self.columns.get(f"{what}_{name}", unknown) for name in self.class_names]
        return np.stack(columns, axis=1)

    @property
    def _labels(self) -> np.ndarray:
        return self.columns["label"] if "label" in self.columns else self._by_class("label")

    @property
    def _labeled(self) -> np.ndarray:
        return ~np.isnan(self._labels).reshape(len(self.ids), -1).all(axis=1)


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What a finished run left behind in its folder `path`."""

    path: pathlib.Path
    config: Mapping[str, Any]
    spec: RunSpec  # the config, typed
    labels: LabelSpec
    results: Mapping[str, Any]
    images: Mapping[tuple[str, str], Images]  # by (checkpoint, data set)
    label: str = ""  # what it is called in a report; '' where nothing was said

    @property
    def system(self) -> str:
        """Its label, or the system that it trained."""
        return self.label or self.config["system"]

    @property
    def budget(self) -> tuple[str | None, str | None]:
        """Class labels and masks, None for a task that the system lacks."""
        data = self.spec.data
        return (
            data.cls_labels if Component.CLASSIFIER in self.components else None,
            data.seg_labels if Component.DECODER in self.components else None,
        )

    @property
    def components(self) -> frozenset[Component]:
        """What the system consists of."""
        return frozenset(map(Component, self.results["run"]["components"]))

    @property
    def checkpoints(self) -> list[tuple[Checkpoint, ...]]:
        """Those that there are, together where they hold the same weights."""
        run = self.results["run"]
        there = tuple(which for which in Checkpoint if which in run)
        alike = all(
            (run[which], self.results.get(which)) == (run[there[0]], self.results.get(there[0]))
            for which in there
        )
        return [there] if alike else [(which,) for which in there]

    @functools.cached_property
    def contents(self) -> dict[str, str]:
        """See `workdir.read_contents`."""
        return workdir.read_contents(self.path)

    @functools.cached_property
    def history(self) -> list[dict[str, Any]]:
        """Lines of `metrics.jsonl`."""
        file = self.path / "metrics.jsonl"
        with workdir.reading(file, "restore it, or train again"):
            return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]

    @functools.cached_property
    def histograms(self) -> dict[str, np.ndarray]:
        """How many pixels of each test set have each intensity, int64 [256]; {} of volumes."""
        suffix = "/histogram"
        with self._arrays(workdir.EXAMPLES) as arrays:
            return {k.removesuffix(suffix): arrays[k] for k in arrays if k.endswith(suffix)}

    @functools.cached_property
    def examples(self) -> dict[tuple[str, str], list[Picture]]:
        """Some pictures of each test set with masks, by (checkpoint, data set): of the same images
        for every system that predicts masks."""
        with self._arrays(workdir.EXAMPLES) as arrays:
            sets = picture_files.from_arrays(arrays)
        split = {prefix: prefix.rpartition("/") for prefix in sets}
        return {(which, name): sets[prefix] for prefix, (name, _, which) in split.items()}

    @functools.cached_property
    def gallery(self) -> Gallery:
        """What there is to look through."""
        with self._arrays(workdir.GALLERY) as arrays:
            checkpoint = Checkpoint(str(arrays["checkpoint"]))
            return Gallery(checkpoint, picture_files.from_arrays(arrays))

    @contextlib.contextmanager
    def _arrays(self, name: str) -> Iterator[Mapping[str, np.ndarray]]:
        path = self.path / name
        with workdir.reading(path), path.open("rb") as opened, np.load(opened) as arrays:
            yield arrays

    def calibration(self, checkpoint: str) -> Calibration | None:
        """What was chosen on validation for the classes; None where nothing was."""
        chosen = self.results["run"].get(checkpoint, {})
        if "temperature" not in chosen:
            return None
        threshold = chosen["threshold"]
        return Calibration(
            float(chosen["temperature"]),
            None if threshold is None else float(threshold),
            multi_label=self.labels.multi_label,
        )

    def trained_on(self, data_set: str, task: Task) -> bool:
        """Whether a test set is of the data set that a task was trained on."""
        data = self.spec.data
        return data_set == (data.seg_data if task == Task.SEG else data.cls_data)


def by_head(summary: Mapping[str, Any]) -> dict[Head, dict[str, Any]]:
    """Metrics by the head whose mask they are of: 'sdf/dice' is the 'dice' of MASK_SDF.

    What is of no mask stands with those of MASK.
    """
    heads = {head.short: head for head in Head if head.is_mask}
    parts: dict[Head, dict[str, Any]] = {}
    for name, entry in summary.items():
        short, slash, metric = name.partition("/")
        if not (slash and short in heads):
            short, metric = "", name
        parts.setdefault(heads[short], {})[metric] = entry
    return parts


def find_runs(paths: Sequence[str | pathlib.Path]) -> list[FinishedRun]:
    """The runs in some folders; a folder of runs, a grid's, stands for the finished ones.

    'LABEL=FOLDER' gives those of a folder a label.
    """
    runs = []
    for text in map(str, paths):
        label, sign, folder = text.partition("=")
        if not sign or pathlib.Path(text).exists():
            label, folder = "", text
        path = pathlib.Path(folder)
        if not path.is_dir():
            raise UsageError(f"{path} is not a folder; name that of a run, or of a grid")
        below = sorted(file.parent for file in path.glob(f"*/{workdir.CONFIG}"))
        if (path / workdir.CONFIG).exists() or not below:
            runs.append(read_run(path, label))
            continue
        for path in below:
            try:
                runs.append(read_run(path, label))
            except Unfinished:
                print(f"{path} is not finished: left out", file=sys.stderr)
    if not runs:
        raise UsageError(f"{', '.join(map(str, paths))}: no run is finished yet")
    return runs


def read_run(path: str | os.PathLike[str], label: str = "") -> FinishedRun:
    """What a finished run left behind; UsageError where it is damaged, Unfinished where there are
    no results of the last step."""
    path = pathlib.Path(path)
    file = path / workdir.RESULTS
    if not file.exists():
        raise Unfinished(
            f"{path} holds no results ({file} is missing); finish the run with launch.py first"
        )
    spec, labels = workdir.read_spec(path), read_labels(path)
    with workdir.reading(path / workdir.PER_IMAGE):
        images = _read_images(path / workdir.PER_IMAGE)
    with workdir.reading(file):
        results = json.loads(file.read_text(encoding="utf-8"))
        config = workdir.read_config(path)
        run = FinishedRun(path, config, spec, labels, results, images, label)
        _ = run.components, *map(run.calibration, Checkpoint)  # which fail where they are damaged
        if results["run"][Checkpoint.LAST]["step"] != spec.training.steps:
            raise Unfinished(f"{path} is not trained to its end; finish it with launch.py first")
    return run


def read_labels(path: pathlib.Path) -> LabelSpec:
    """Classes and masks that the run in a folder was trained on."""
    file = path / workdir.LABELS
    with workdir.reading(file, "restore it, or train again"):
        return LabelSpec.from_json(json.loads(file.read_text(encoding="utf-8")))


def read_appearance(path: pathlib.Path) -> Appearance | None:
    """How the images look that the run in a folder was trained on; None where nobody noted it."""
    file = path / workdir.APPEARANCE
    if not file.exists():
        return None
    with workdir.reading(file, "restore it, or remove it"):
        return Appearance.from_json(json.loads(file.read_text(encoding="utf-8")))


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


def write_csv(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as a table, whole or not at all; a column for every key, in the order they appear."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (
        atomic.replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def histogram(eval_set: EvalSet) -> np.ndarray:
    """How many pixels of a set of images have each intensity, int64 [256]."""
    counts = np.zeros(256, np.int64)
    for start in range(0, len(eval_set.ids), 100):
        images = eval_set.images(np.arange(start, min(start + 100, len(eval_set.ids))))
        counts += np.bincount(np.ravel(images), minlength=256)
    return counts
