"""What a run leaves behind: its files, written and read again in one place."""

import contextlib
import csv
import dataclasses
import functools
import json
import pathlib
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from multimix_jax import atomic
from multimix_jax.errors import UsageError
from multimix_jax.evaluation import classification
from multimix_jax.evaluation.calibration import Calibration
from multimix_jax.evaluation.evaluate import EvalSet
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Checkpoint, Component, Head, Task
from multimix_jax.runs import picture_files, workdir
from multimix_jax.runs.picture_files import Gallery, Picture
from multimix_jax.runs.spec import RunSpec

_DAMAGE = (EOFError, LookupError, OSError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)


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
        """In the order of the labels; [] where no classes are predicted."""
        prefix = "probability_"
        return [n.removeprefix(prefix) for n in self.columns if n.startswith(prefix)]

    @property
    def labels(self) -> np.ndarray:
        """int [n] of the images that have one; [n,K] of 0 and 1 of independent classes."""
        return self._labels[self._labeled].astype(int)

    @property
    def probabilities(self) -> np.ndarray:
        """[n,K] of the images that have a label."""
        columns = [self.columns[f"probability_{name}"] for name in self.class_names]
        return np.stack(columns, axis=1)[self._labeled]

    @property
    def correct(self) -> np.ndarray:
        """float [N], 1 where the class is right at .5, the share of independent classes that are,
        NaN without a label."""
        correct = np.full(len(self.ids), np.nan)
        correct[self._labeled] = classification.share_right(self.probabilities, self.labels)
        return correct

    @property
    def _labels(self) -> np.ndarray:
        if "label" in self.columns:
            return self.columns["label"]
        return np.stack([self.columns[f"label_{name}"] for name in self.class_names], axis=1)

    @property
    def _labeled(self) -> np.ndarray:
        return ~np.isnan(self._labels).reshape(len(self.ids), -1).any(axis=1)


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What a finished run left behind.

    Attributes:
      path: its folder.
      config, results: its files.
      spec: the config, typed.
      labels: classes and masks that it was trained on.
      images: figures per image by (checkpoint, data set).
    """

    path: pathlib.Path
    config: Mapping[str, Any]
    spec: RunSpec
    labels: LabelSpec
    results: Mapping[str, Any]
    images: Mapping[tuple[str, str], Images]

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
        """What the system consists of, see `Objective.components`."""
        return frozenset(map(Component, self.results["run"]["components"]))

    @functools.cached_property
    def contents(self) -> dict[str, str]:
        """Digests of what own folders held, by kind of file; {} where there were none."""
        file = self.path / workdir.CONTENTS
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    @functools.cached_property
    def history(self) -> list[dict[str, Any]]:
        """Lines of `metrics.jsonl`."""
        lines = (self.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @functools.cached_property
    def histograms(self) -> dict[str, np.ndarray]:
        """How many pixels of each test set have each intensity, int64 [256]; {} of volumes."""
        suffix = "/histogram"
        arrays = self._examples
        return {k.removesuffix(suffix): arrays[k] for k in arrays if k.endswith(suffix)}

    @functools.cached_property
    def examples(self) -> dict[tuple[str, str], list[Picture]]:
        """Some pictures of each test set with masks, by (checkpoint, data set).

        They show the same images for every system that predicts masks.
        """
        with self._damage(workdir.EXAMPLES):
            sets = picture_files.from_arrays(self._examples)
        split = {prefix: prefix.rpartition("/") for prefix in sets}
        return {(which, name): sets[prefix] for prefix, (name, _, which) in split.items()}

    @functools.cached_property
    def gallery(self) -> Gallery:
        """What there is to look through."""
        arrays = self._read_arrays(workdir.GALLERY)
        with self._damage(workdir.GALLERY):
            checkpoint = Checkpoint(str(arrays["checkpoint"]))
            return Gallery(checkpoint, picture_files.from_arrays(arrays))

    @functools.cached_property
    def _examples(self) -> dict[str, np.ndarray]:
        return self._read_arrays(workdir.EXAMPLES)

    def _read_arrays(self, name: str) -> dict[str, np.ndarray]:
        path = self.path / name
        if not path.exists():
            raise UsageError(f"{path} is missing; evaluate that run again with --mode=eval")
        with self._damage(name), path.open("rb") as opened, np.load(opened) as file:
            return dict(file)

    @contextlib.contextmanager
    def _damage(self, name: str) -> Iterator[None]:
        """Whatever fails in here is the fault of a file."""
        try:
            yield
        except _DAMAGE as error:
            raise UsageError(
                f"{self.path / name} is damaged ({error}); evaluate that run again with --mode=eval"
            ) from error

    def calibration(self, checkpoint: str) -> Calibration | None:
        """What was chosen on validation for the classes; None where nothing was."""
        chosen = self.results["run"].get(checkpoint, {})
        temperature, threshold = chosen.get("temperature"), chosen.get("threshold")
        if temperature is None and threshold is None:
            return None
        return Calibration(
            1.0 if temperature is None else float(temperature),
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
    """The runs in some folders; a folder of runs, such as a grid's, stands for its finished ones.

    Raises:
      UsageError: a folder holds neither.
    """
    runs = []
    for path in map(pathlib.Path, paths):
        below = sorted(file.parent for file in path.glob(f"*/{workdir.CONFIG}"))
        if (path / workdir.CONFIG).exists() or not below:
            runs.append(read_run(path))
            continue
        finished = [folder for folder in below if _is_finished(folder)]
        for folder in sorted(set(below) - set(finished)):
            print(f"{folder} is not finished: left out", file=sys.stderr)
        runs += map(read_run, finished)
    if not runs:
        raise UsageError(f"{', '.join(map(str, paths))}: no run is finished yet")
    return runs


def _is_finished(path: pathlib.Path) -> bool:
    try:
        config = json.loads((path / workdir.CONFIG).read_text(encoding="utf-8"))
        return workdir.finished(path, config["steps"]) is not None
    except (KeyError, RecursionError, TypeError, ValueError):
        return True  # damaged: `read_run` says how


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
        spec, labels = RunSpec.read(path / workdir.CONFIG), read_labels(path)
        run = FinishedRun(path, config, spec, labels, results, images)
        _ = run.components, *map(run.calibration, Checkpoint)  # which fail where they are damaged
        if workdir.finished(path, spec.training.steps) is None:
            raise UsageError(f"{path} is not trained to its end; finish it with launch.py first")
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(
            f"{path} holds no results ({error.filename} is missing); finish the run with "
            "launch.py first"
        ) from error
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise UsageError(
            f"what {path} holds is damaged ({type(error).__name__}: {error}); evaluate that run "
            "again with --mode=eval"
        ) from error
    return run


def read_labels(path: pathlib.Path) -> LabelSpec:
    """Classes and masks that the run in a folder was trained on.

    Raises:
      UsageError: the file is missing or damaged.
    """
    file = path / workdir.LABELS
    try:
        return LabelSpec.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise UsageError(
            f"{file} is missing or damaged ({error}); restore it, or train again"
        ) from error


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


def write_results(path: pathlib.Path, results: Mapping[str, Any]) -> None:
    """Writes `results.json` into the folder of a run."""
    atomic.write_json(path / workdir.RESULTS, results)


def write_per_image(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes `per_image.csv` into the folder of a run: a line per image and checkpoint.

    Args:
      path: the folder.
      rows: `checkpoint`, `data_set`, `id`, and the figures of the image.
    """
    write_csv(path / workdir.PER_IMAGE, rows)


def histogram(eval_set: EvalSet) -> np.ndarray:
    """How many pixels of a set of images have each intensity, int64 [256]."""
    counts = np.zeros(256, np.int64)
    for start in range(0, len(eval_set.ids), 100):
        images = eval_set.images(np.arange(start, min(start + 100, len(eval_set.ids))))
        counts += np.bincount(np.ravel(images), minlength=256)
    return counts
