"""What finished runs leave behind, read again."""

import csv
import dataclasses
import functools
import json
import pathlib
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from multimix_jax import atomic
from multimix_jax.errors import UsageError
from multimix_jax.evaluation import classification
from multimix_jax.evaluation.calibration import Calibration
from multimix_jax.names import Checkpoint
from multimix_jax.runs import workdir

# Fields that switch parts on and off.
SWITCHES = {
    "": ("ema_decay",),
    "model": ("use_classifier", "use_decoder", "use_bridge", "bridge_gradient", "use_sdf"),
    "objective": (
        "pseudo_label_weight",
        "kl_weight",
        "mutual_weight",
        "teacher_weight",
        "pose",
        "appearance",
    ),
}


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
        """In the order of the labels; none where nothing is said of classes."""
        prefix = "probability_"
        return [n.removeprefix(prefix) for n in self.columns if n.startswith(prefix)]

    @property
    def labels(self) -> np.ndarray:
        """int [n] of the images that have one; [n,K] of 0 and 1 of independent classes."""
        return self._labels[self._labelled].astype(int)

    @property
    def probabilities(self) -> np.ndarray:
        """[n,K] of the images that have a label."""
        columns = [self.columns[f"probability_{name}"] for name in self.class_names]
        return np.stack(columns, axis=1)[self._labelled]

    @property
    def correct(self) -> np.ndarray:
        """float [N], 1 where the class is right at .5, the share of independent classes that are,
        NaN without a label."""
        correct = np.full(len(self.ids), np.nan)
        correct[self._labelled] = classification.share_right(self.probabilities, self.labels)
        return correct

    @property
    def _labels(self) -> np.ndarray:
        if "label" in self.columns:
            return self.columns["label"]
        return np.stack([self.columns[f"label_{name}"] for name in self.class_names], axis=1)

    @property
    def _labelled(self) -> np.ndarray:
        return ~np.isnan(self._labels).reshape(len(self.ids), -1).any(axis=1)


@dataclasses.dataclass(frozen=True)
class Example:
    """Some images of a test set, or slices of volumes, and what a run found.

    Attributes:
      ids: n names; that of a slice goes on in a second line.
      images: uint8 [n,H,W,C].
      truths: bool [n,H,W,C'].
      found: by checkpoint, predicted masks ('last'), those found in other ways ('last_sdf', ...)
        and signed distance maps ('last_distance').
    """

    ids: Sequence[str]
    images: np.ndarray
    truths: np.ndarray
    found: Mapping[str, np.ndarray]


def by_way(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Metrics by the way to the mask: 'sdf/dice' is the 'dice' of 'sdf'; the first has no name."""
    found: dict[str, dict[str, Any]] = {}
    for name, entry in summary.items():
        way, _, metric = name.rpartition("/")
        found.setdefault(way, {})[metric] = entry
    return found


def image_of(id_: str) -> str:
    """The image, or the volume, that an example shows."""
    return id_.partition("\n")[0]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Images of each test set, or slices of volumes, from the worst to the best.

    Attributes:
      checkpoint: of the weights that were used.
      sets: by data set, arrays of n entries: `id`, see `Example`; `image` uint8 [n,H,W,1]; and
        where there are any, `truth`, `mask` and masks found in other ways, such as `mask_sdf`,
        bool [n,H,W,C'], and `saliency` uint8 [n,H,W,1].
    """

    checkpoint: str
    sets: Mapping[str, Mapping[str, np.ndarray]]


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
        c = self.config
        return (
            c["cls_labels"] if "classifier" in self.parts else None,
            c["seg_labels"] if "decoder" in self.parts else None,
        )

    @property
    def parts(self) -> frozenset[str]:
        """What the system consists of, see `Objective.parts`."""
        return frozenset(self.results["run"]["parts"])

    @property
    def class_names(self) -> list[str]:
        """In the order of the probabilities; [] without a classifier."""
        if "class_names" in self.results["run"]:
            return self.results["run"]["class_names"]
        # Of older runs, as far as the test images tell.
        return next((i.class_names for i in self.images.values() if i.class_names), [])

    @property
    def mask_names(self) -> list[str]:
        """Of the masks' channels; [] where they have none."""
        if "mask_names" in self.results["run"]:
            return self.results["run"]["mask_names"]
        columns = dict.fromkeys(name for images in self.images.values() for name in images.columns)
        return [name.removeprefix("dice_") for name in columns if name.startswith("dice_")]

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
                found={
                    key.removeprefix(f"{name}/"): file[key]
                    for key in file
                    if key.startswith((f"{name}/{Checkpoint.BEST}", f"{name}/{Checkpoint.LAST}"))
                },
            )
            for name in (key.removesuffix("/truth") for key in file if "/truth" in key)
        }

    @functools.cached_property
    def gallery(self) -> Gallery | None:
        """What there is to look through; None of a run evaluated before this was kept."""
        if not (self.path / workdir.GALLERY).exists():
            return None
        file = self._arrays(workdir.GALLERY)
        sets: dict[str, dict[str, np.ndarray]] = {}
        for key in file:
            data_set, _, kind = key.rpartition("/")
            if data_set:
                sets.setdefault(data_set, {})[kind] = file[key]
        return Gallery(str(file["checkpoint"]), sets)

    @functools.cached_property
    def _examples(self) -> dict[str, np.ndarray]:
        return self._arrays(workdir.EXAMPLES)

    def _arrays(self, name: str) -> dict[str, np.ndarray]:
        path = self.path / name
        if not path.exists():
            raise UsageError(f"{path} is missing; evaluate that run again with --mode=eval")
        try:
            with path.open("rb") as opened, np.load(opened) as file:
                return dict(file)
        except (EOFError, OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise UsageError(
                f"{path} is damaged ({error}); evaluate that run again with --mode=eval"
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
            multi_label=bool(chosen.get("multi_label", False)),
        )

    def trained_on(self, data_set: str, task: str) -> bool:
        """Whether a test set is of the hospital that a task, 'seg' or 'cls', was trained on."""
        return data_set == self.config[f"{task}_data"]


def find_runs(paths: Sequence[str | pathlib.Path]) -> list[FinishedRun]:
    """The runs in some folders; a folder of runs, such as a grid's, stands for its finished ones.

    Raises:
      UsageError: a folder holds neither.
    """
    found = []
    for path in map(pathlib.Path, paths):
        below = sorted(file.parent for file in path.glob(f"*/{workdir.CONFIG}"))
        if (path / workdir.CONFIG).exists() or not below:
            found.append(read_run(path))
            continue
        finished = [folder for folder in below if _is_finished(folder)]
        for folder in sorted(set(below) - set(finished)):
            print(f"{folder} is not finished: left out", file=sys.stderr)
        found += map(read_run, finished)
    if not found:
        raise UsageError(f"{', '.join(map(str, paths))}: no run is finished yet")
    return found


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
        run = FinishedRun(path, config, results, images)
        names = *run.parts, *run.class_names, *run.mask_names
        if not all(isinstance(name, str) for name in names):
            raise ValueError("its parts, classes or masks have no names")
        for which in (Checkpoint.BEST, Checkpoint.LAST):
            run.calibration(which)
        if workdir.finished(path, config["steps"]) is None:
            raise UsageError(f"{path} is not trained to its end; finish it with launch.py first")
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


def write_per_image(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One line per image and checkpoint, whole or not at all."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (
        atomic.replacing(path / workdir.PER_IMAGE) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
