"""Pictures that a run makes while it goes on, and what it keeps to be shown later."""

import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from multimix_jax import atomic
from multimix_jax.names import Checkpoint
from multimix_jax.reporting import pictures, selection
from multimix_jax.reporting.model_card import model_card
from multimix_jax.runs import record, workdir
from multimix_jax.runs.data import RunData
from multimix_jax.runs.picture_files import Gallery, Picture, write_examples, write_gallery
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
        spec, data: of the run.
        """
        self._path, self._spec, self._data = path, spec, data
        self._examples: dict[tuple[str, str], list[Picture]] = {}
        self._gallery: dict[str, list[Picture]] = {}
        self._looked_through: Checkpoint | None = None  # one of them is enough

    def trained_on(self, views: Mapping[str, Any]) -> None:
        """Figure of what the network sees of the first batch."""
        rows = [
            [pictures.middle(np.asarray(image)) for image in images[:PICTURED]]
            for images in views.values()
        ]
        pictures.grid(rows, self._path / "figures" / "views.png", rows=list(views))

    def validated(self, evaluated: Evaluated, step: int, writer: MetricWriter) -> None:
        """A few images of a validation set, to TensorBoard."""
        first = np.arange(len(evaluated.predictions.ids))[:PICTURED]
        _, rows = pictures.table(_pictures(evaluated, first))
        writer.picture(step, f"validation/{evaluated.eval_set.name}", pictures.mosaic(rows))

    def tested(self, evaluated: Evaluated) -> None:
        """Figure of a few images of a test set, from the worst to the best, for each checkpoint
        that holds the same weights; and images to keep."""
        name = evaluated.eval_set.name
        shown = _pictures(evaluated, selection.instructive(evaluated.rows, PICTURED))
        figures = [
            self._path / "figures" / f"{which}_{name}.png" for which in evaluated.checkpoints
        ]
        selection.draw(shown, figures[0], evaluated.rows)
        for path in figures[1:]:
            shutil.copyfile(figures[0], path)
        self._looked_through = self._looked_through or evaluated.checkpoints[0]
        if self._looked_through in evaluated.checkpoints:
            self._gallery[name] = selection.gallery(
                evaluated.eval_set,
                evaluated.predictions,
                evaluated.rows,
                count=GALLERY,
                side=GALLERY_SIDE,
                saliency=evaluated.saliency,
            )
        examples = selection.examples(evaluated.eval_set, evaluated.predictions, EXAMPLES)
        if examples:
            self._examples |= {(which, name): examples for which in evaluated.checkpoints}

    def finished(self, results: Mapping[str, Any]) -> None:
        """Writes what was kept, and the model card."""
        images = [eval_set for eval_set in self._data.tests if eval_set.affines is None]
        histograms = {eval_set.name: record.histogram(eval_set) for eval_set in images}
        write_examples(self._path, self._examples, histograms)
        write_gallery(self._path, Gallery(self._looked_through or Checkpoint.LAST, self._gallery))
        card = model_card(self._spec, results, self._data)
        atomic.write_text(self._path / workdir.CARD, card)


def _pictures(evaluated: Evaluated, chosen: np.ndarray) -> list[Picture]:
    return list(
        selection.of_predictions(
            evaluated.eval_set, evaluated.predictions, chosen, evaluated.saliency
        )
    )
