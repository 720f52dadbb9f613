"""A run from start to end: training in a workdir, then evaluation of its best and last weights."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from multimix_jax import metrics, report, workdir
from multimix_jax.checkpoint import BEST, LAST, Checkpoints
from multimix_jax.errors import UsageError
from multimix_jax.evaluate import (
    EvalSet,
    Predict,
    Predictions,
    Row,
    Summary,
    measure,
    predict_set,
    validation_score,
)
from multimix_jax.keys import ExampleKeys
from multimix_jax.metric_writer import MetricWriter
from multimix_jax.objectives.base import Objective
from multimix_jax.parallel import AXIS, make_predict, make_spread
from multimix_jax.train import Progress, restore, train
from multimix_jax.train_state import TrainState
from multimix_jax.train_step import make_train_step

PyTree = Any
PICTURED = 4  # images of each set in a figure


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run consists of.

    Attributes:
      path: its folder.
      config, ids: JSON values to keep there: what was asked for, and the images used.
      objective: the method, with its model.
      optimizer: optax transformation.
      batches: (first step, end) -> training batches of NumPy arrays.
      validation: sets to choose the checkpoint on, and the threshold.
      tests: sets to report on.
      class_names: in the order of the labels.
      data_digest: identifies the data and their order; a run goes on only with the same.
      size: side of the images in pixels.
      seed: of everything random in training.
      steps: updates in all.
      images_per_step: for the speed that is shown.
      parallel: 'pmap' or 'jit', see `make_spread`.
      ema_decay: of the moving average of the weights, 0 for none.
      accumulate: parts of a batch, see `make_train_step`.
      eval_batch_size: images per call in evaluation.
    """

    path: pathlib.Path
    config: Mapping[str, Any]
    ids: Mapping[str, Any]
    objective: Objective
    optimizer: optax.GradientTransformation
    batches: Callable[[int, int], Iterator[PyTree]]
    validation: Sequence[EvalSet]
    tests: Sequence[EvalSet]
    class_names: Sequence[str]
    data_digest: str
    size: int
    seed: int
    steps: int
    images_per_step: int
    parallel: str
    ema_decay: float
    accumulate: int
    eval_batch_size: int

    def train(self, *, log_every: int, eval_every: int, checkpoint_every: int) -> None:
        """Trains to the last step, from the last checkpoint if there is one."""
        step = make_train_step(
            self.objective,
            self.optimizer,
            seed=self.seed,
            ema_decay=self.ema_decay,
            accumulate=self.accumulate,
            axis_name=AXIS,
        )
        spread = make_spread(step, spelling=self.parallel)
        state = spread.put_state(self._initial_state())
        self._check_classes(state.eval_variables)
        workdir.claim(self.path, self.config, self.ids)  # nothing is written before all is sound
        with Checkpoints(self.path) as checkpoints:
            state, progress = restore(checkpoints, LAST, state, Progress(data=self.data_digest))
            start = int(state.step)
            with MetricWriter(self.path, start) as writer:
                if start == 0:
                    self._picture_views()

                def validate(variables: PyTree, at: int) -> tuple[float, dict[str, float]]:
                    return self._validate(variables, at, writer)

                train(
                    state,
                    spread,
                    self.batches(start, self.steps),
                    steps=self.steps,
                    images_per_step=self.images_per_step,
                    log_every=log_every,
                    eval_every=eval_every,
                    checkpoint_every=checkpoint_every,
                    validate=validate,
                    writer=writer,
                    checkpoints=checkpoints,
                    progress=progress,
                )

    def evaluate(self) -> dict[str, Any]:
        """Measures the best and the last weights on every test set; writes and returns results.

        Writes `results.json`, `per_image.csv` and `figures/`.

        Raises:
          UsageError: there is no checkpoint.
        """
        results: dict[str, Any] = {}
        rows: list[dict[str, Any]] = []
        with Checkpoints(self.path) as checkpoints:
            for which in (BEST, LAST):
                restored = checkpoints.restore(which, self._initial_state())
                if restored is None:
                    raise UsageError(
                        f"{self.path} holds no checkpoint to evaluate; train first "
                        "(--mode=train), with the same --config and --workdir"
                    )
                state, meta = restored
                results[which] = {}
                threshold = self._threshold(state.eval_variables)
                for eval_set in self.tests:
                    summary, images = self._test(state.eval_variables, eval_set, threshold, which)
                    if summary:
                        results[which][eval_set.name] = summary
                    rows += [
                        {"checkpoint": which, "data_set": eval_set.name, **row} for row in images
                    ]
                results.setdefault("run", {})[which] = {
                    "step": int(state.step),
                    "threshold": threshold,
                }
        results["run"] |= {
            "steps": self.steps,
            "seconds": meta["seconds"],
            "tests": [eval_set.name for eval_set in self.tests],
        }
        report.write_per_image(self.path / workdir.PER_IMAGE, rows)
        workdir.write_json(self.path / workdir.RESULTS, results)
        return results

    def finished(self) -> dict[str, Any] | None:
        """The results of a run that was trained and evaluated to the end, else None."""
        file = self.path / workdir.RESULTS
        if not file.exists():
            return None
        results = json.loads(file.read_text(encoding="utf-8"))
        wanted = {eval_set.name for eval_set in self.tests}
        done = results["run"][LAST]["step"] == self.steps and wanted == set(results["run"]["tests"])
        return results if done else None

    # Compiled once for training and evaluation together.
    @functools.cached_property
    def _predict(self) -> Predict:
        return make_predict(self.objective.predict)

    @functools.cached_property
    def _saliency(self) -> Callable[[PyTree, np.ndarray], jax.Array | None]:
        return jax.jit(self.objective.saliency)

    @functools.cached_property
    def _variables(self) -> PyTree:
        init = jax.jit(self.objective.init, static_argnums=1)
        return init(jax.random.key(self.seed), self.size)

    def _initial_state(self) -> TrainState:
        keep_average = self.ema_decay > 0
        return TrainState.create(self._variables, self.optimizer, keep_average=keep_average)

    def _check_classes(self, variables: PyTree) -> None:
        """Raises UsageError where the model, its training set and the test sets disagree."""
        image = self.validation[0].images(np.zeros(1, int))
        predicted = jax.eval_shape(self.objective.predict, variables, image)
        if "classes" not in predicted:
            return
        count = predicted["classes"].shape[-1]
        if count != len(self.class_names):
            raise UsageError(
                f"the model has {count} classes, but the images have {len(self.class_names)} "
                f"({', '.join(self.class_names)}); set config.model.num_classes"
            )
        for eval_set in self.tests:
            if len(eval_set.class_names) not in (0, count):
                raise UsageError(
                    f"{eval_set.name} has {len(eval_set.class_names)} classes, but the model has "
                    f"{count}; take {eval_set.name} out of config.test_data"
                )

    def _threshold(self, variables: PyTree) -> float | None:
        """Threshold on the probability of class 1 that is most accurate on validation."""
        for eval_set in self.validation:
            found = predict_set(self._predict, variables, eval_set, batch_size=self.eval_batch_size)
            known = found.labels >= 0
            if found.classes is not None and found.classes.shape[-1] == 2 and known.any():
                return metrics.best_threshold(found.classes[known], found.labels[known])
        return None

    def _validate(
        self, variables: PyTree, step: int, writer: MetricWriter
    ) -> tuple[float, dict[str, float]]:
        summaries: list[Summary] = []
        values: dict[str, float] = {}
        for eval_set in self.validation:
            found = predict_set(self._predict, variables, eval_set, batch_size=self.eval_batch_size)
            summary, _ = measure(found, class_names=self.class_names, intervals=False)
            summaries.append(summary)
            values |= {f"{eval_set.name}/{name}": entry["mean"] for name, entry in summary.items()}
            shown = np.arange(len(found.ids))[:PICTURED]
            _, pictures = self._pictures(variables, eval_set, found, shown)
            writer.picture(step, f"validation/{eval_set.name}", report.mosaic(pictures))
        score = validation_score(summaries)
        return score, {"score": score, **values}

    def _test(
        self,
        variables: PyTree,
        eval_set: EvalSet,
        threshold: float | None,
        which: str,
    ) -> tuple[Summary, list[Row]]:
        found = predict_set(self._predict, variables, eval_set, batch_size=self.eval_batch_size)
        summary, rows = measure(found, class_names=self.class_names, threshold=threshold)
        if summary:
            shown = report.instructive(rows, PICTURED)
            titles, pictures = self._pictures(variables, eval_set, found, shown)
            report.grid(
                pictures,
                self.path / "figures" / f"{which}_{eval_set.name}.png",
                columns=titles,
                rows=[report.caption(rows[index]) for index in shown],
            )
        return summary, rows

    def _pictures(
        self,
        variables: PyTree,
        eval_set: EvalSet,
        found: Predictions,
        shown: np.ndarray,
    ) -> tuple[list[str], list[list[np.ndarray]]]:
        """Titles, and a row for each shown image: image, truth, prediction, saliency, if any."""
        images = eval_set.images(shown)
        saliency = self._saliency(variables, images)
        pictures = []
        for row, index in enumerate(shown):
            panels = {"image": report.overlay(images[row])}
            truth = found.truths[index] if found.has_mask[index] else None
            if found.masks is not None and found.has_mask[shown].any():
                panels["truth"] = report.overlay(images[row], truth=truth)
            if found.masks is not None:
                mask = found.masks[index]
                panels["prediction (orange)"] = report.overlay(images[row], truth=truth, mask=mask)
            if saliency is not None:
                panels["saliency"] = report.heat(np.asarray(saliency[row]))
            pictures.append(panels)
        return list(pictures[0]), [list(panels.values()) for panels in pictures]

    def _picture_views(self) -> None:
        """Figure of what the network sees of the first batch."""
        batch = next(self.batches(0, 1))
        keys = ExampleKeys(jax.random.fold_in(jax.random.key(self.seed), 0))
        views = jax.jit(self.objective.views)(batch, keys)
        report.grid(
            [[np.asarray(image) for image in images[:PICTURED]] for images in views.values()],
            self.path / "figures" / "views.png",
            rows=list(views),
        )
