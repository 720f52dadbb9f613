"""A run from start to end: training in a folder, then evaluation of its best and last weights."""

import dataclasses
import functools
import gzip
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import nibabel
import numpy as np

from multimix_jax import atomic
from multimix_jax.errors import UsageError
from multimix_jax.evaluation import calibration, cautions
from multimix_jax.evaluation.calibration import Calibration
from multimix_jax.evaluation.evaluate import (
    EvalSet,
    Predictions,
    Row,
    Summary,
    measure,
    validation_score,
)
from multimix_jax.inference.appearance import Appearance
from multimix_jax.inference.sets import Baseline, predict_set
from multimix_jax.keys import ExampleKeys
from multimix_jax.names import BASELINE, Checkpoint, Task
from multimix_jax.runs import costs, workdir
from multimix_jax.runs.data import RunData, check_belongs
from multimix_jax.runs.programs import Programs
from multimix_jax.runs.record import write_csv
from multimix_jax.runs.spec import RunSpec
from multimix_jax.training import parallel
from multimix_jax.training.checkpoint import newest_step, restore_variables
from multimix_jax.training.loop import check_data, train
from multimix_jax.training.metric_writer import MetricWriter
from multimix_jax.training.preemption import PreemptionGuard

PyTree = Any
_LOOKED_AT = 200  # images, at least, that say how those trained on look
_AT_ONCE = 4  # images whose saliency is computed together


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """The predictions for one data set by the weights that some checkpoints hold.

    `rows` are figures of each image; `saliency` gives maps [H,W,1] of images by their places, None
    of volumes and without a classifier.
    """

    checkpoints: Sequence[Checkpoint]
    eval_set: EvalSet
    predictions: Predictions
    rows: Sequence[Row]
    saliency: Callable[[np.ndarray], list[np.ndarray] | None]


class Observer(Protocol):
    """Who makes pictures of a run while it goes on."""

    def trained_on(self, views: Mapping[str, Any]) -> None:
        """What the network sees of the first batch."""

    def validated(self, evaluated: Evaluated, step: int, writer: MetricWriter) -> None: ...

    def tested(self, evaluated: Evaluated) -> None: ...

    def finished(self, results: Mapping[str, Any]) -> None:
        """All sets were tested; results are written next."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run in its folder `path`; `spec` is its config, typed."""

    path: pathlib.Path
    config: Mapping[str, Any]
    spec: RunSpec
    programs: Programs
    data: RunData
    observer: Observer

    def train(self, guard: PreemptionGuard) -> None:
        """Trains to the last step, from the last checkpoint if there is one; see `loop.train`.

        Raises:
          UsageError: the data do not belong to the network, or to the run in the folder.
          Preempted: by a signal; all was saved.
        """
        sharded = self.programs.sharded_step
        initial = functools.partial(self.programs.initial_state, self.spec.seed)
        check_belongs(self.data, self.programs, jax.eval_shape(initial).eval_variables)
        if self.spec.prediction.windows is not None:  # patches may be of any size
            costs.check_memory(self.programs, next(self.data.batches(0, 1)))
        if parallel.is_first():  # nothing is written before all is sound
            workdir.claim(self.path, self.config, self.data)
            done = newest_step(self.path, Checkpoint.LAST) or 0
            looked_at = 1 if done else -(-_LOOKED_AT // self.data.images_per_step)
            batch, *others = self.data.batches(0, looked_at)
            self.programs.objective.check_batch(batch)
            if self.spec.training.steps - done >= costs.TOLD_FROM:
                print(costs.forecast(self.programs, batch, self.spec.training.steps - done))
            if not done:
                keys = ExampleKeys(jax.random.fold_in(jax.random.key(self.spec.seed), 0))
                self.observer.trained_on(self.programs.views(batch, keys))
                self._note_appearance([batch, *others])
        train(
            self.path,
            lambda: sharded.put_state(initial()),
            sharded,
            self.data,
            steps=self.spec.training.steps,
            cadence=self.spec.cadence,
            validate=self._validate,
            guard=guard,
        )

    def _note_appearance(self, batches: Sequence[PyTree]) -> None:
        """Writes what images have in common, for those that are predicted; not of volumes."""
        if len(self.programs.network.input_shape(self.spec.data.size)) == 3:
            images = np.concatenate([np.asarray(s["image"]) for b in batches for s in b.values()])
            if images.dtype == np.uint8:
                noted = dataclasses.asdict(Appearance.of_images(images, self.data.source_shapes))
                atomic.write_json(self.path / workdir.APPEARANCE, noted)

    def evaluate(self) -> dict[str, Any]:
        """Measures the best and the last weights, and the baseline, on every test set.

        Writes `results.json`, `per_image.csv` and, of volumes, `predictions/`, has the observer
        make its pictures, and returns what is in the first; its `run` has `warnings`, sentences.

        Raises:
          UsageError: there is no checkpoint, or it was trained on other images.
        """
        results: dict[str, Any] = {"run": {}}
        doubts: list[str] = []
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in (*Checkpoint, BASELINE)}

        def note(which: str, eval_set: EvalSet, summary: Summary, images: Sequence[Row]) -> None:
            if summary:
                results.setdefault(which, {})[eval_set.name] = summary
            rows[which] += [
                {"checkpoint": which, "data_set": eval_set.name, **row} for row in images
            ]

        like = self.programs.initial_state(self.spec.seed).eval_variables
        # The test sets may be others than when it was trained.
        check_belongs(self.data, self.programs, like)
        for names, step, variables, meta in _restored(self.path, like):
            if meta["data"]:  # not of converted weights
                check_data(meta["data"], self.data.digest)
            calibrated, own = self._calibration(variables)
            doubts += own
            chosen = {} if calibrated is None else dataclasses.asdict(calibrated)
            results["run"] |= {which: {"step": step, **chosen} for which in names}
            for eval_set in self.data.tests:
                tested, summary = self._evaluated(variables, eval_set, names, calibrated)
                if summary:
                    self.observer.tested(tested)
                for which in names:
                    note(which, eval_set, summary, tested.rows)
                    _write_volumes(self.path / "predictions" / which, tested)
        if not results["run"]:
            raise UsageError(
                f"{self.path} holds no checkpoint to evaluate; train first (--mode=train), with "
                "the same --config and --workdir"
            )
        baseline, batch_size = Baseline(self.data.baseline), self.spec.prediction.eval_batch_size
        classes = self.data.label_spec.class_names
        for eval_set in self.data.tests:
            same = predict_set(baseline, (), eval_set, batch_size=batch_size)
            note(BASELINE, eval_set, *measure(same, class_names=classes))
        doubts += cautions.of_results(results, list(self.data.validation))
        results["run"] |= {
            "warnings": list(dict.fromkeys(doubts)),
            "steps": self.spec.training.steps,
            "seconds": meta["seconds"],
            "tests": [eval_set.name for eval_set in self.data.tests],
            "components": list(self.programs.objective.components),
        }
        write_csv(self.path / workdir.PER_IMAGE, sum(rows.values(), []))
        self.observer.finished(results)
        atomic.write_json(self.path / workdir.RESULTS, results)
        return results

    def _predict(self, variables: PyTree, eval_set: EvalSet) -> Predictions:
        batch_size = self.spec.prediction.eval_batch_size
        return predict_set(self.programs.predictor, (variables,), eval_set, batch_size=batch_size)

    def _evaluated(
        self,
        variables: PyTree,
        eval_set: EvalSet,
        checkpoints: Sequence[Checkpoint] = (),
        calibrated: Calibration | None = None,
        *,
        task: Task | None = None,
        intervals: bool = True,
    ) -> tuple[Evaluated, Summary]:
        """Of one task, or of what is known of either."""
        predictions = self._predict(variables, eval_set)
        if task is not None:
            predictions = predictions.of_task(task)
        names = self.data.label_spec.class_names
        summary, rows = measure(
            predictions, class_names=names, calibration=calibrated, intervals=intervals
        )
        saliency = functools.partial(self._saliency, variables, eval_set)
        return Evaluated(checkpoints, eval_set, predictions, rows, saliency), summary

    def _calibration(self, variables: PyTree) -> tuple[Calibration | None, list[str]]:
        """Chosen on the validation set of the classes, None without one; and what there is to say
        of either validation set."""
        chosen = None
        doubts: list[str] = []
        for task, eval_set in self.data.validation.items():
            if task == Task.SEG:
                doubts += cautions.of_masks(eval_set.name, len(eval_set.ids))
                continue
            predictions = self._predict(variables, eval_set)
            known = predictions.has_label
            assert predictions.classes is not None
            labels = predictions.labels[known]
            names = self.data.label_spec.class_names
            doubts += cautions.of_classes(eval_set.name, labels, names)
            chosen, more = calibration.fit(predictions.classes[known], labels)
            doubts += more
        return chosen, doubts

    def _validate(
        self, variables: PyTree, step: int, writer: MetricWriter
    ) -> tuple[float, dict[str, float]]:
        summaries: list[Summary] = []
        values: dict[str, float] = {}
        # Both tasks may be validated on one set, of which each has images of its own.
        for task, eval_set in self.data.validation.items():
            evaluated, summary = self._evaluated(variables, eval_set, task=task, intervals=False)
            summaries.append(summary)
            values |= {f"{eval_set.name}/{name}": entry["mean"] for name, entry in summary.items()}
            self.observer.validated(evaluated, step, writer)
        score = validation_score(summaries)
        return score, {"score": score, **values}

    def _saliency(
        self, variables: PyTree, eval_set: EvalSet, indices: np.ndarray
    ) -> list[np.ndarray] | None:
        """[H,W,1] of some images of a set; None of volumes, and without a classifier."""
        if eval_set.affines is not None or not self.programs.network.classifies:
            return None
        # Wherever they lay, in training or after it, the program is the same.
        variables = jax.device_put(variables, jax.local_devices()[0])
        maps: list[np.ndarray] = []
        for start in range(0, len(indices), _AT_ONCE):
            # Always as many, since another number would be compiled anew.
            some = np.resize(indices[start : start + _AT_ONCE], _AT_ONCE)
            images = np.asarray(eval_set.images(some))
            maps += list(np.asarray(self.programs.saliency(variables, images)))
        return maps[: len(indices)]


def _restored(
    path: pathlib.Path, like: PyTree
) -> Iterator[tuple[list[Checkpoint], int, PyTree, dict[str, Any]]]:
    """Names, step, variables and meta of the best and the last checkpoint, together where they hold
    the same weights; converted weights are not the best of any."""
    best = restore_variables(path, Checkpoint.BEST, like)
    last = restore_variables(path, Checkpoint.LAST, like)
    if best is not None and last is not None and best[0] == last[0]:
        if jax.tree.all(jax.tree.map(np.array_equal, best[1], last[1])):
            yield [Checkpoint.BEST, Checkpoint.LAST], *last
            return
    for which, restored in ((Checkpoint.BEST, best), (Checkpoint.LAST, last)):
        if restored is not None:
            yield [which], *restored


def _write_volumes(folder: pathlib.Path, tested: Evaluated) -> None:
    """The masks predicted for volumes as NIfTI files, where the volumes lie."""
    affines = tested.eval_set.affines
    if affines is None:
        return
    folder = folder.with_name(f"{folder.name}_{tested.eval_set.name}")
    for head, masks in tested.predictions.masks.items():
        for name, mask, affine in zip(tested.predictions.ids, masks, affines, strict=True):
            write_mask(folder / head / f"{name}.nii.gz", mask, affine)


def write_mask(path: pathlib.Path, mask: np.ndarray, affine: np.ndarray) -> None:
    """Writes a mask, bool [X,Y,Z,C], as a NIfTI file of uint8, whole or not at all.

    The last axis is left out where it has one entry. `affine` [4,4] leads from voxels to
    millimetres; zeros where unknown: then a voxel counts as 1 mm.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    values = mask[..., 0] if mask.shape[-1] == 1 else mask
    image = nibabel.Nifti1Image(values.astype(np.uint8), affine if affine.any() else np.eye(4))
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    with atomic.replacing(path) as temporary:  # by name alone nibabel would not know what to write
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
