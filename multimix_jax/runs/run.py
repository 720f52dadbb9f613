"""A run from start to end: training in a workdir, then evaluation of its best and last weights."""

import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from multimix_jax import atomic
from multimix_jax.commands import report
from multimix_jax.errors import UsageError
from multimix_jax.evaluation import calibration
from multimix_jax.evaluation.calibration import Calibration
from multimix_jax.evaluation.evaluate import (
    EvalSet,
    Predictions,
    Row,
    Summary,
    measure,
    predict_same,
    predict_set,
    validation_score,
)
from multimix_jax.keys import ExampleKeys
from multimix_jax.names import BASELINE, Checkpoint
from multimix_jax.reporting import figures
from multimix_jax.reporting.model_card import model_card
from multimix_jax.runs import nifti, workdir
from multimix_jax.state import TrainState
from multimix_jax.training import parallel
from multimix_jax.training.checkpoint import Checkpoints, newest_step
from multimix_jax.training.loop import Progress, check_data, restore, train
from multimix_jax.training.metric_writer import MetricWriter
from multimix_jax.training.preemption import PreemptionGuard
from multimix_jax.training.programs import Programs

PyTree = Any
PICTURED = 4  # images of each set in a figure
EXAMPLES = 6  # images of each set kept with their masks, to compare models by
GALLERY, GALLERY_SIDE = 48, 256  # images of each set kept to look through, and their largest side


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run consists of.

    Attributes:
      path: its folder.
      config, ids: JSON values to keep there: what was asked for, and the images used.
      programs: the method, compiled.
      batches: (first step, end) -> training batches of NumPy arrays.
      ids_of_step: (step) -> ids of its examples, by stream.
      validation: sets to choose the checkpoint on, and the calibration.
      tests: sets to report on.
      class_names: in the order of the labels.
      baseline: the answer that looks at no image: probabilities `mask` [H,W,C'], `classes` [K].
      components: how many parts of each predicted mask are kept, the largest; 0 for all.
      data_digest: identifies the data and their order; a run goes on only with the same.
      size: side of the images in pixels.
      seed: of everything random in training.
      steps: updates in all.
      images_per_step: for the speed that is shown.
      eval_batch_size: images per call in evaluation.
    """

    path: pathlib.Path
    config: Mapping[str, Any]
    ids: Mapping[str, Any]
    programs: Programs
    batches: Callable[[int, int], Iterator[PyTree]]
    ids_of_step: Callable[[int], Mapping[str, Sequence[str]]]
    validation: Sequence[EvalSet]
    tests: Sequence[EvalSet]
    class_names: Sequence[str]
    baseline: Mapping[str, np.ndarray]
    components: int
    data_digest: str
    size: int
    seed: int
    steps: int
    images_per_step: int
    eval_batch_size: int

    def train(
        self,
        stopping: PreemptionGuard,
        *,
        log_every: int,
        eval_every: int,
        checkpoint_every: int,
        max_skipped: int,
    ) -> None:
        """Trains to the last step, from the last checkpoint if there is one; see `train.train`."""
        spread = self.programs.spread
        state = spread.put_state(self._initial_state())
        self._check(state.eval_variables)
        if self.programs.windows is not None:  # patches may be as large as anyone asks for
            self.programs.check_memory(next(self.batches(0, 1)), self.size)
        if parallel.is_first():  # nothing is written before all is sound
            workdir.claim(self.path, self.config, self.ids)
        with Checkpoints(self.path) as checkpoints:
            state, progress = restore(
                checkpoints, Checkpoint.LAST, state, Progress(data=self.data_digest)
            )
            start = int(state.step)
            stopping.begin(start, functools.partial(newest_step, self.path, Checkpoint.LAST))
            first = parallel.is_first()
            with MetricWriter(self.path, start, silent=not first) as writer:
                if start == 0 and first:
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
                    max_skipped=max_skipped,
                    validate=validate,
                    ids_of_step=self.ids_of_step,
                    writer=writer,
                    checkpoints=checkpoints,
                    progress=progress,
                    stopping=stopping,
                )

    def evaluate(self) -> dict[str, Any]:
        """Measures the best and the last weights, and the baseline, on every test set.

        Writes `results.json`, `per_image.csv`, `examples.npz`, `gallery.npz`, `figures/`, the model
        card `README.md` and, of volumes, `predictions/`, and returns what is in the first.

        Raises:
          UsageError: there is no checkpoint, or it was trained on other images.
        """
        results: dict[str, Any] = {"run": {}}
        noted: dict[str, list[dict[str, Any]]] = {
            Checkpoint.BEST: [],
            Checkpoint.LAST: [],
            BASELINE: [],
        }
        examples: dict[str, np.ndarray] = {}
        gallery: dict[str, np.ndarray] = {}

        def note(which: str, eval_set: EvalSet, summary: Summary, images: Sequence[Row]) -> None:
            if summary:
                results.setdefault(which, {})[eval_set.name] = summary
            noted[which] += [
                {"checkpoint": which, "data_set": eval_set.name, **row} for row in images
            ]

        with Checkpoints(self.path, alone=True) as checkpoints:
            like = self._initial_state().eval_variables
            self._check(like)  # tested on what may be other sets than when it was trained
            for held, step, variables, meta in _restored(checkpoints, like):
                if meta["data"]:  # not of converted weights
                    check_data(meta["data"], self.data_digest)
                calibrated = self._calibration(variables)
                if not results["run"]:  # one checkpoint is enough to look at
                    gallery["checkpoint"] = np.array(held[0])
                for which in held:
                    results["run"][which] = {"step": step}
                    if calibrated is not None:
                        results["run"][which] |= dataclasses.asdict(calibrated)
                for eval_set in self.tests:
                    found = self._predict(variables, eval_set)
                    summary, images = measure(
                        found, class_names=self.class_names, calibration=calibrated
                    )
                    if summary:
                        self._picture(held, variables, eval_set, found, images)
                        if gallery["checkpoint"] == held[0]:
                            gallery |= self._gallery(variables, eval_set, found, images)
                    for which in held:
                        note(which, eval_set, summary, images)
                        examples |= _examples(which, eval_set, found)
                        self._write_volumes(which, eval_set, found)
        if not results["run"]:
            raise UsageError(
                f"{self.path} holds no checkpoint to evaluate; train first (--mode=train), with "
                "the same --config and --workdir"
            )
        for eval_set in self.tests:
            same = predict_set(
                predict_same(self.baseline), None, eval_set, batch_size=self.eval_batch_size
            )
            if eval_set.affines is None:
                examples[f"{eval_set.name}/histogram"] = _histogram(eval_set)
            note(BASELINE, eval_set, *measure(same, class_names=self.class_names))
        results["run"] |= {
            "steps": self.steps,
            "seconds": meta["seconds"],
            "tests": [eval_set.name for eval_set in self.tests],
            "parts": list(self.programs.objective.parts),
            "class_names": list(self.class_names),
            "mask_names": self._mask_names,
        }
        report.write_per_image(self.path / workdir.PER_IMAGE, sum(noted.values(), []))
        atomic.write_arrays(self.path / workdir.EXAMPLES, examples)
        atomic.write_arrays(self.path / workdir.GALLERY, gallery)
        card = model_card(self.config, results, self.ids)
        atomic.write_text(self.path / workdir.CARD, card)
        atomic.write_json(self.path / workdir.RESULTS, results)
        return results

    @property
    def _mask_names(self) -> list[str]:
        """Of the channels of the masks that are trained on, whose set comes first; [] if none."""
        segments = "decoder" in self.programs.objective.parts
        return list(self.validation[0].mask_names) if segments else []

    def _initial_state(self) -> TrainState:
        return self.programs.initial_state(self.seed, self.size)

    def _predict(self, variables: PyTree, eval_set: EvalSet) -> Predictions:
        return predict_set(
            self.programs.predict,
            variables,
            eval_set,
            batch_size=self.eval_batch_size,
            components=self.components,
        )

    def _check(self, variables: PyTree) -> None:
        """Raises UsageError where the model, its training set and the test sets disagree."""
        shape = self.programs.objective.input_shape(self.size)
        wanted = "images" if len(shape) == 3 else "volumes"
        for eval_set in (*self.validation, *self.tests):
            held = "images" if eval_set.affines is None else "volumes"
            if held != wanted:
                raise UsageError(
                    f"{eval_set.name} holds {held}, but config.objective.patch is for {wanted}; "
                    "set that, or use other data"
                )
            held_channels = eval_set.images(np.zeros(1, int))[0].shape[-1]
            if held_channels != shape[-1]:
                raise UsageError(
                    f"the model takes images of {shape[-1]} channels, but those of "
                    f"{eval_set.name} have {held_channels}; set config.model.in_channels, or use "
                    "other data"
                )
        images = self.validation[0].images(np.zeros(1, int))
        shown = images if wanted == "images" else np.zeros((1, *shape))
        predicted = self.programs.predicted_shapes(variables, shown)
        for eval_set in (*self.validation, *self.tests):
            if "mask" not in predicted or not eval_set.has_mask.any():
                continue
            channels, names = predicted["mask"].shape[-1], eval_set.mask_names
            if channels != max(1, len(names)):
                raise UsageError(
                    f"the model finds {channels} masks, but {eval_set.name} has "
                    f"{max(1, len(names))} ({', '.join(names)}); set config.model.mask_channels, "
                    "or other data"
                )
            if names and self._mask_names and list(names) != self._mask_names:
                raise UsageError(
                    f"the model finds masks of {', '.join(self._mask_names)}, but "
                    f"{eval_set.name} has those of {', '.join(names)}; name the folders of the "
                    "masks alike, or use other data"
                )
        if "classes" not in predicted:
            return
        count = predicted["classes"].shape[-1]
        if count != len(self.class_names):
            raise UsageError(
                f"the model has {count} classes, but the images have {len(self.class_names)} "
                f"({', '.join(self.class_names)}); set config.model.num_classes"
            )
        exclusive = self.config["objective"].get("exclusive", True)
        for eval_set in (*self.validation, *self.tests):
            if eval_set.class_names and eval_set.exclusive != exclusive:
                held = "one class" if eval_set.exclusive else "any number of classes"
                raise UsageError(
                    f"each image of {eval_set.name} has {held}; set config.objective.exclusive to "
                    f"{eval_set.exclusive}, or use other data"
                )
        for eval_set in self.tests:
            if len(eval_set.class_names) not in (0, count):
                raise UsageError(
                    f"{eval_set.name} has {len(eval_set.class_names)} classes, but the model has "
                    f"{count}; take {eval_set.name} out of config.test_data"
                )

    def _calibration(self, variables: PyTree) -> Calibration | None:
        """Chosen on the validation set of the classes, the last; None without a classifier."""
        for eval_set in reversed(self.validation):
            found = self._predict(variables, eval_set)
            known = found.has_label
            if found.classes is not None and known.any():
                return calibration.fit(found.classes[known], found.labels[known])
        return None

    def _validate(
        self, variables: PyTree, step: int, writer: MetricWriter
    ) -> tuple[float, dict[str, float]]:
        summaries: list[Summary] = []
        values: dict[str, float] = {}
        for eval_set in self.validation:
            found = self._predict(variables, eval_set)
            summary, _ = measure(found, class_names=self.class_names, intervals=False)
            summaries.append(summary)
            values |= {f"{eval_set.name}/{name}": entry["mean"] for name, entry in summary.items()}
            shown = np.arange(len(found.ids))[:PICTURED]
            _, _, pictures = self._pictures(variables, eval_set, found, shown)
            writer.picture(step, f"validation/{eval_set.name}", figures.mosaic(pictures))
        score = validation_score(summaries)
        return score, {"score": score, **values}

    def _picture(
        self,
        held: Sequence[str],
        variables: PyTree,
        eval_set: EvalSet,
        found: Predictions,
        rows: Sequence[Row],
    ) -> None:
        """Figure of a few images of a test set, from the worst to the best, of each checkpoint that
        holds the same weights."""
        shown = figures.instructive(rows, PICTURED)
        titles, places, pictures = self._pictures(variables, eval_set, found, shown)
        first, *others = (self.path / "figures" / f"{which}_{eval_set.name}.png" for which in held)
        figures.grid(
            pictures,
            first,
            columns=titles,
            rows=[f"{figures.caption(rows[index])}{slice_}" for index, slice_ in places],
        )
        for path in others:
            shutil.copyfile(first, path)

    def _pictures(
        self,
        variables: PyTree,
        eval_set: EvalSet,
        found: Predictions,
        shown: np.ndarray,
    ) -> tuple[list[str], list[tuple[int, str]], list[list[np.ndarray]]]:
        """Titles; image and slice of each row; rows: image, truth, predictions, saliency, ..."""
        images = eval_set.images(shown)
        saliency = self._saliency(variables, eval_set, shown)
        places, pictures = [], []
        for row, index in enumerate(shown):
            truth = found.truths[index] if found.has_mask[index] else None
            grey = figures.as_gray(images[row])
            for name, at in figures.slices(truth if truth is not None else grey):
                outlined = None if truth is None else truth[at]
                panels = {"image": figures.overlay(grey[at])}
                if found.masks and found.has_mask[shown].any():
                    panels["truth"] = figures.overlay(grey[at], truth=outlined)
                for way, masks in found.masks.items():
                    title = way.replace("mask", "prediction").replace("_", ", ")
                    mask = masks[index][at]
                    panels[title] = figures.overlay(grey[at], truth=outlined, mask=mask)
                if found.distance is not None:
                    panels["distance"] = figures.signed(found.distance[index][at])
                if saliency is not None:
                    panels["saliency"] = figures.heat(saliency[row])
                places.append((int(index), name))
                pictures.append(panels)
        return list(pictures[0]), places, [list(panels.values()) for panels in pictures]

    def _saliency(
        self, variables: PyTree, eval_set: EvalSet, shown: np.ndarray
    ) -> list[np.ndarray] | None:
        """[H,W,1] of some images of a set; None of volumes, and without a classifier."""
        if eval_set.affines is not None:
            return None
        found: list[np.ndarray] = []
        for start in range(0, len(shown), PICTURED):  # gradients of few images at once
            some = np.resize(shown[start : start + PICTURED], PICTURED)  # compiled for these alone
            saliency = self.programs.saliency(variables, np.asarray(eval_set.images(some)))
            if saliency is None:
                return None
            found += list(np.asarray(saliency))
        return found[: len(shown)]

    def _gallery(
        self, variables: PyTree, eval_set: EvalSet, found: Predictions, rows: Sequence[Row]
    ) -> dict[str, np.ndarray]:
        """What was found of images of a test set, from the worst to the best, to look through."""
        shown = figures.instructive(rows, GALLERY)
        saliency = self._saliency(variables, eval_set, shown)

        def entries() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
            for place, index in enumerate(shown):
                (image,) = eval_set.images(shown[place : place + 1])
                gray = figures.as_gray(image).mean(axis=-1, keepdims=True)
                kinds = {"image": gray.round().astype(np.uint8)}
                if "dice" in rows[index]:
                    kinds["truth"] = found.truths[index]
                kinds |= {way: masks[index] for way, masks in found.masks.items()}
                if saliency is not None:
                    kinds["saliency"] = figures.as_gray(saliency[place])
                yield found.ids[index], kinds

        return {
            key: values if key.endswith("/id") else figures.shrunk(values, GALLERY_SIDE)
            for key, values in _arrays(eval_set.name, entries()).items()
        }

    def _write_volumes(self, which: str, eval_set: EvalSet, found: Predictions) -> None:
        """The masks found of volumes as NIfTI files, where the volumes lie."""
        affines = eval_set.affines
        if affines is None:
            return
        for way, masks in found.masks.items():
            folder = self.path / "predictions" / f"{which}_{eval_set.name}" / way
            for name, mask, affine in zip(found.ids, masks, affines, strict=True):
                nifti.write_mask(folder / f"{name}.nii.gz", mask, affine)

    def _picture_views(self) -> None:
        """Figure of what the network sees of the first batch."""
        batch = next(self.batches(0, 1))
        keys = ExampleKeys(jax.random.fold_in(jax.random.key(self.seed), 0))
        views = self.programs.views(batch, keys)
        figures.grid(
            [
                [figures.middle(np.asarray(image)) for image in images[:PICTURED]]
                for images in views.values()
            ],
            self.path / "figures" / "views.png",
            rows=list(views),
        )


def _restored(
    checkpoints: Checkpoints, like: PyTree
) -> list[tuple[list[str], int, PyTree, dict[str, Any]]]:
    """Names, step, variables and meta of the best and the last checkpoint, together where they hold
    the same weights; converted weights are not the best of any."""
    found: list[tuple[list[str], int, PyTree, dict[str, Any]]] = []
    for which in (Checkpoint.BEST, Checkpoint.LAST):
        restored = checkpoints.restore_variables(which, like)
        if restored is None:
            continue
        step, variables, meta = restored
        if found and found[0][1] == step and _equal(found[0][2], variables):
            found = [([Checkpoint.BEST, Checkpoint.LAST], step, variables, meta)]
        else:
            found.append(([which], step, variables, meta))
    return found


def _equal(one: PyTree, other: PyTree) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


def _examples(which: str, eval_set: EvalSet, found: Predictions) -> dict[str, np.ndarray]:
    """What was found of some images of a test set, the same ones for every model; of volumes, of
    three slices each."""
    known = np.flatnonzero(found.has_mask)
    if not found.masks or not len(known):
        return {}
    chosen = known[np.linspace(0, len(known) - 1, min(EXAMPLES, len(known))).astype(int)]

    def entries() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for index, image in zip(chosen, eval_set.images(chosen), strict=True):
            kinds = {"image": figures.as_gray(image), "truth": found.truths[index]}
            for way, masks in found.masks.items():
                kinds[f"{which}{way.removeprefix('mask')}"] = masks[index]
            if found.distance is not None:
                kinds[f"{which}_distance"] = found.distance[index]
            yield found.ids[index], kinds

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


def _histogram(eval_set: EvalSet) -> np.ndarray:
    """How many pixels have each intensity, int64 [256]."""
    counts = np.zeros(256, np.int64)
    for start in range(0, len(eval_set.ids), 100):
        images = eval_set.images(np.arange(start, min(start + 100, len(eval_set.ids))))
        counts += np.bincount(np.ravel(images), minlength=256)
    return counts
