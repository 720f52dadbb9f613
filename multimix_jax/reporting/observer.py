"""Pictures that a run makes while it goes on, and what it keeps to be shown later."""

import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from multimix_jax import atomic
from multimix_jax.names import Checkpoint
from multimix_jax.reporting import figures
from multimix_jax.reporting.model_card import model_card
from multimix_jax.runs import workdir
from multimix_jax.runs.data import RunData
from multimix_jax.runs.run import Evaluated
from multimix_jax.runs.spec import RunSpec
from multimix_jax.training.metric_writer import MetricWriter

PICTURED = 4  # images of each set in a figure
EXAMPLES = 6  # images of each set kept with their masks, to compare models by
GALLERY, GALLERY_SIDE = 48, 256  # images of each set kept to look through, and their largest side


class PictureObserver:
    """Writes `figures/`, `examples.npz`, `gallery.npz` and the model card `README.md` of a run."""

    def __init__(self, path: pathlib.Path, spec: RunSpec, data: RunData):
        """Args:
        path: folder of the run.
        spec: of the run.
        data: of the run.
        """
        self._path, self._spec, self._data = path, spec, data
        self._examples: dict[str, np.ndarray] = {}
        self._gallery: dict[str, np.ndarray] = {}
        self._shown: Checkpoint | None = None  # one checkpoint is enough to look through

    def trained_on(self, views: Mapping[str, Any]) -> None:
        """Figure of what the network sees of the first batch."""
        figures.grid(
            [
                [figures.middle(np.asarray(image)) for image in images[:PICTURED]]
                for images in views.values()
            ],
            self._path / "figures" / "views.png",
            rows=list(views),
        )

    def validated(self, evaluated: Evaluated, step: int, writer: MetricWriter) -> None:
        """A few images of a validation set, to TensorBoard."""
        shown = np.arange(len(evaluated.predictions.ids))[:PICTURED]
        _, _, pictures = _pictures(evaluated, shown)
        writer.picture(step, f"validation/{evaluated.eval_set.name}", figures.mosaic(pictures))

    def tested(self, evaluated: Evaluated) -> None:
        """Figure of a few images of a test set, from the worst to the best, for each checkpoint
        that holds the same weights; and images to keep."""
        shown = figures.instructive(evaluated.rows, PICTURED)
        titles, places, pictures = _pictures(evaluated, shown)
        first, *others = (
            self._path / "figures" / f"{which}_{evaluated.eval_set.name}.png"
            for which in evaluated.checkpoints
        )
        figures.grid(
            pictures,
            first,
            columns=titles,
            rows=[f"{figures.caption(evaluated.rows[index])}{slice_}" for index, slice_ in places],
        )
        for path in others:
            shutil.copyfile(first, path)
        self._shown = self._shown or evaluated.checkpoints[0]
        if self._shown in evaluated.checkpoints:
            self._gallery |= _gallery(evaluated)
        for which in evaluated.checkpoints:
            self._examples |= _examples(which, evaluated)

    def finished(self, results: Mapping[str, Any]) -> None:
        """Writes what was kept, and the model card."""
        for eval_set in self._data.tests:
            if eval_set.affines is None:
                self._examples[f"{eval_set.name}/histogram"] = _histogram(eval_set)
        atomic.write_arrays(self._path / workdir.EXAMPLES, self._examples)
        checkpoint = np.array(self._shown or Checkpoint.LAST)
        gallery = {"checkpoint": checkpoint, **self._gallery}
        atomic.write_arrays(self._path / workdir.GALLERY, gallery)
        card = model_card(self._spec, results, self._data)
        atomic.write_text(self._path / workdir.CARD, card)


def _pictures(
    evaluated: Evaluated, shown: np.ndarray
) -> tuple[list[str], list[tuple[int, str]], list[list[np.ndarray]]]:
    """Titles; image and slice of each row; rows: image, truth, predictions, saliency, ..."""
    predictions = evaluated.predictions
    images, saliency = evaluated.eval_set.images(shown), evaluated.saliency(shown)
    places, pictures = [], []
    for row, index in enumerate(shown):
        truth = predictions.truths[index] if predictions.has_mask[index] else None
        grey = figures.as_gray(images[row])
        for name, at in figures.slices(truth if truth is not None else grey):
            outlined = None if truth is None else truth[at]
            panels = {"image": figures.overlay(grey[at])}
            if predictions.masks and predictions.has_mask[shown].any():
                panels["truth"] = figures.overlay(grey[at], truth=outlined)
            for head, masks in predictions.masks.items():
                title = ", ".join(filter(None, ("prediction", head.short)))
                mask = masks[index][at]
                panels[title] = figures.overlay(grey[at], truth=outlined, mask=mask)
            if predictions.distance is not None:
                panels["distance"] = figures.signed(predictions.distance[index][at])
            if saliency is not None:
                panels["saliency"] = figures.heat(saliency[row])
            places.append((int(index), name))
            pictures.append(panels)
    return list(pictures[0]), places, [list(panels.values()) for panels in pictures]


def _gallery(evaluated: Evaluated) -> dict[str, np.ndarray]:
    """Predictions for images of a test set, from the worst to the best, to look through."""
    predictions, eval_set = evaluated.predictions, evaluated.eval_set
    shown = figures.instructive(evaluated.rows, GALLERY)
    saliency = evaluated.saliency(shown)

    def entries() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for place, index in enumerate(shown):
            (image,) = eval_set.images(shown[place : place + 1])
            gray = figures.as_gray(image).mean(axis=-1, keepdims=True)
            kinds = {"image": gray.round().astype(np.uint8)}
            if "dice" in evaluated.rows[index]:
                kinds["truth"] = predictions.truths[index]
            kinds |= {str(head): masks[index] for head, masks in predictions.masks.items()}
            if saliency is not None:
                kinds["saliency"] = figures.as_gray(saliency[place])
            yield predictions.ids[index], kinds

    return {
        key: values if key.endswith("/id") else figures.shrunk(values, GALLERY_SIDE)
        for key, values in _arrays(eval_set.name, entries()).items()
    }


def _examples(which: Checkpoint, evaluated: Evaluated) -> dict[str, np.ndarray]:
    """Predictions for some images of a test set, the same ones for every model; of volumes, for
    three slices each."""
    predictions, eval_set = evaluated.predictions, evaluated.eval_set
    known = np.flatnonzero(predictions.has_mask)
    if not predictions.masks or not len(known):
        return {}
    chosen = known[np.linspace(0, len(known) - 1, min(EXAMPLES, len(known))).astype(int)]

    def entries() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for index, image in zip(chosen, eval_set.images(chosen), strict=True):
            kinds = {"image": figures.as_gray(image), "truth": predictions.truths[index]}
            for head, masks in predictions.masks.items():
                kinds[f"{which}{head.removeprefix('mask')}"] = masks[index]
            if predictions.distance is not None:
                kinds[f"{which}_distance"] = predictions.distance[index]
            yield predictions.ids[index], kinds

    return _arrays(eval_set.name, entries())


def _arrays(
    data_set: str, entries: Iterable[tuple[str, Mapping[str, np.ndarray]]]
) -> dict[str, np.ndarray]:
    """Pictures [n,H,W,C] by data set and kind, and their ids; of a volume three slices."""
    columns: dict[str, list[np.ndarray]] = {}
    ids = []
    for id_, kinds in entries:
        for name, at in figures.slices(kinds.get("truth", kinds["image"])):
            ids.append(f"{id_}{name}")
            for kind, values in kinds.items():
                columns.setdefault(kind, []).append(values[at])
    arrays = {kind: figures.stacked(values) for kind, values in columns.items()}
    arrays["id"] = np.array(ids)
    return {f"{data_set}/{key}": values for key, values in arrays.items()}


def _histogram(eval_set: Any) -> np.ndarray:
    """How many pixels have each intensity, int64 [256]."""
    counts = np.zeros(256, np.int64)
    for start in range(0, len(eval_set.ids), 100):
        images = eval_set.images(np.arange(start, min(start + 100, len(eval_set.ids))))
        counts += np.bincount(np.ravel(images), minlength=256)
    return counts
