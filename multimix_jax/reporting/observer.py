"""What a run leaves to be looked at: figures of instructive images, images to browse, its card."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from multimix_jax import __version__, atomic
from multimix_jax.evaluation.evaluate import EvalSet, Predictions
from multimix_jax.names import Checkpoint, Component, Head
from multimix_jax.reporting import pictures, tables
from multimix_jax.runs import picture_files, record, workdir
from multimix_jax.runs.data import RunData
from multimix_jax.runs.picture_files import Gallery, Picture
from multimix_jax.runs.run import Evaluated
from multimix_jax.runs.spec import RunSpec
from multimix_jax.training.metric_writer import MetricWriter

Row = Mapping[str, float | int | str]

PICTURED = 4  # images of each set in a figure
EXAMPLES = 6  # images of each set kept with their masks, to compare models by
GALLERY, GALLERY_SIDE = 48, 256  # images of each set kept to look through, and their largest side
ON_CARD = (
    "dice",
    "dice_present",
    "dice_absent",
    "hd95",
    "hd95_mm",
    "accuracy",
    "auroc",
    "ece",
    "ece_calibrated",
)


class PictureObserver:
    """Writes `figures/`, `examples.npz`, `gallery.npz` and the model card `README.md` of a run."""

    def __init__(self, path: pathlib.Path, spec: RunSpec, data: RunData):
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
        _, rows = pictures.table(_of_evaluated(evaluated, first))
        # Both tasks may be validated on one set, of which each has images of its own.
        kind = "masks" if evaluated.predictions.masks else "classes"
        name = f"validation/{evaluated.eval_set.name}, {kind}"
        writer.picture(step, name, pictures.mosaic(rows))

    def tested(self, evaluated: Evaluated) -> None:
        """Figure of a few images of a test set, from the worst to the best, one for all
        checkpoints that hold the same weights; and images to keep."""
        name, checkpoints = evaluated.eval_set.name, evaluated.checkpoints
        shown = list(_of_evaluated(evaluated, instructive(evaluated.rows, PICTURED)))
        by_id = {row["id"]: row for row in evaluated.rows}
        captions = [pictures.with_slice(caption(by_id[one.id]), one.slice) for one in shown]
        titles, rows = pictures.table(shown)
        figure = lambda which: f"figures/{'_and_'.join(which)}_{pictures.file_name(name)}.png"
        for former in (list(Checkpoint), *([which] for which in checkpoints)):
            (self._path / figure(former)).unlink(missing_ok=True)
        pictures.grid(rows, self._path / figure(checkpoints), columns=titles, rows=captions)
        self._looked_through = self._looked_through or checkpoints[0]
        if self._looked_through in checkpoints:
            chosen = instructive(evaluated.rows, GALLERY)
            self._gallery[name] = gallery(_of_evaluated(evaluated, chosen), GALLERY_SIDE)
        kept = examples(evaluated.eval_set, evaluated.predictions, EXAMPLES)
        if kept:
            self._examples |= {(which, name): kept for which in checkpoints}

    def finished(self, results: Mapping[str, Any]) -> None:
        """Writes what was kept, and the model card."""
        images = [eval_set for eval_set in self._data.tests if eval_set.affines is None]
        histograms = {eval_set.name: record.histogram(eval_set) for eval_set in images}
        picture_files.write_examples(self._path, self._examples, histograms)
        gallery = Gallery(self._looked_through or Checkpoint.LAST, self._gallery)
        picture_files.write_gallery(self._path, gallery)
        card = model_card(self._spec, results, self._data)
        atomic.write_text(self._path / workdir.CARD, card)


def _of_evaluated(one: Evaluated, chosen: np.ndarray) -> Iterator[Picture]:
    return of_predictions(one.eval_set, one.predictions, chosen, one.saliency(chosen))


def of_predictions(
    eval_set: EvalSet,
    predictions: Predictions,
    chosen: np.ndarray,
    saliency: Sequence[np.ndarray] | None = None,
) -> Iterator[Picture]:
    """The pictures of the images at `chosen` [n] places of a set, which are read one by one; of a
    volume three slices. `saliency`: [H,W,1] of each of them."""
    for row, index in enumerate(chosen):
        (image,) = eval_set.images(chosen[row : row + 1])
        gray = pictures.as_gray(image)
        known = predictions.masks and predictions.has_mask[index]
        truth = predictions.truths[index] if known else None
        distance = None if predictions.distance is None else predictions.distance[index]
        for place, at in slices(gray if truth is None else truth):
            yield Picture(
                id=predictions.ids[index],
                slice=place,
                image=gray[at],
                truth=None if truth is None else truth[at],
                masks={Head(name): masks[index][at] for name, masks in predictions.masks.items()},
                distance=None if distance is None else distance[at],
                saliency=None if saliency is None else saliency[row],
            )


def examples(eval_set: EvalSet, predictions: Predictions, count: int) -> list[Picture]:
    """Pictures of `count` images of a set with a mask, the same ones for every model."""
    known = np.flatnonzero(predictions.has_mask)
    if not predictions.masks or not len(known):
        return []
    places = np.linspace(0, len(known) - 1, min(count, len(known))).astype(int)
    return list(of_predictions(eval_set, predictions, known[places]))


def gallery(shown: Iterable[Picture], side: int) -> list[Picture]:
    """Pictures to look through: grey, of at most `side` pixels a side."""
    gray = [
        dataclasses.replace(
            picture,
            image=picture.image.mean(axis=-1, keepdims=True).round().astype(np.uint8),
            distance=None,
            saliency=None if picture.saliency is None else pictures.as_gray(picture.saliency),
        )
        for picture in shown
    ]
    return picture_files.shrink_pictures(gray, side)


def instructive(rows: Sequence[Row], count: int) -> np.ndarray:
    """Which images to show: as many with a Dice as with a class alone and with neither, as far as
    there are any, in this order.

    Each are evenly from the worst to the best: by Dice, or by the probability of the true class, of
    independent ones of the least likely.
    """
    kinds: list[list[tuple[float, int]]] = [[], [], []]
    for index, row in enumerate(rows):
        truths = of_truth(row).values()
        if "dice" in row:
            kinds[0].append((float(row["dice"]), index))
        else:
            kinds[1 if truths else 2].append((min(truths, default=0.0), index))
    share = [0, 0, 0]
    for _ in range(min(count, len(rows))):
        # The next goes to the kind that has fewest so far, of those of which some are left.
        share[min((n, k) for k, n in enumerate(share) if n < len(kinds[k]))[1]] += 1
    chosen = []
    for known, some in zip(kinds, share):
        order = [index for _, index in sorted(known)]
        chosen += [
            order[place] for place in np.linspace(0, len(order) - 1, some).round().astype(int)
        ]
    return np.array(chosen, int)


def caption(row: Row) -> str:
    """Name and main figures of an image."""
    lines = [str(row["id"]).rpartition("/")[2]]
    if "dice" in row:
        lines.append(f"Dice {float(row['dice']):.3f}")
    least_likely = sorted(of_truth(row).items(), key=lambda item: item[1])[:3]
    lines += [f"truth: {truth} (p = {probability:.2f})" for truth, probability in least_likely]
    return "\n".join(lines)


def of_truth(row: Row) -> dict[str, float]:
    """The probability of the class that an image has; of independent ones of each as it is.

    {} where nothing is known of classes.
    """
    prefix = "probability_"
    known = {n.removeprefix(prefix): float(row[n]) for n in row if n.startswith(prefix)}
    if "label" in row:
        return dict([list(known.items())[int(row["label"])]])
    there = {name: row[f"label_{name}"] for name in known if f"label_{name}" in row}
    return {
        name if label else f"not {name}": known[name] if label else 1 - known[name]
        for name, label in there.items()
    }


def slices(volume: np.ndarray) -> list[tuple[int, Any]]:
    """Places and indices of the pictures in [H,W,C]: itself, at -1; in [H,W,Z,C]: three along Z.

    They stand at a quarter, half and three quarters of where it is not zero.
    """
    if volume.ndim == 3:
        return [(-1, ...)]
    filled = np.flatnonzero(volume.any(axis=(0, 1, 3)))
    ends = (filled[0], filled[-1]) if len(filled) else (0, volume.shape[2] - 1)
    places = [round(ends[0] + share * (ends[1] - ends[0])) for share in (0.25, 0.5, 0.75)]
    return [(place, np.s_[:, :, place]) for place in places]


def model_card(spec: RunSpec, results: Mapping[str, Any], data: RunData) -> str:
    """The card of a run (Mitchell et al. 2019) as Markdown, with what model hubs read before it.

    `results`: of `Run.evaluate`.
    """
    run = results["run"]
    tags = ["jax", "flax", "medical-imaging", "semi-supervised", spec.system]
    labels = ""
    if Component.CLASSIFIER in run["components"]:
        labels += f"{spec.data.cls_labels} class labels, "
    if Component.DECODER in run["components"]:
        tags.append("image-segmentation")
        labels += f"{spec.data.seg_labels} masks, "
    if Component.CLASSIFIER in run["components"]:
        tags.append("image-classification")
    counts = [
        [f"{purpose}, {name}", str(len(ids))]
        for purpose, sets in data.ids.items()
        for name, ids in sets.items()
    ]
    card = pathlib.Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
    return card.format(
        front=f'library_name: "multimix_jax"\ntags: {json.dumps(tags)}',
        system=tables.escaped(spec.system),
        labels=labels,
        seed=spec.seed,
        components=", ".join(run["components"]),
        steps=run["steps"],
        minutes=run["seconds"] / 60,
        version=__version__,
        data=tables.markdown(["images", "number"], counts),
        results=_card_results(results),
        calibration="\n".join(_card_calibration(run, data.label_spec.class_names)),
        warnings="\n".join(f"* {tables.escaped(warning)}." for warning in run["warnings"])
        or "None.",
    )


def _card_results(results: Mapping[str, Any]) -> str:
    rows = []
    for which, data_set, head, part in tables.summaries(results):
        shown = [name for name in ON_CARD if name in part]
        figures = [" ".join((name, *(tables.estimate(part[name]) or "–"))) for name in shown]
        rows.append([which, tables.with_head(data_set, head), "; ".join(figures)])
    return tables.markdown(["weights", "images", ""], rows)


def _card_calibration(run: Mapping[str, Any], class_names: Sequence[str]) -> Iterator[str]:
    if class_names:
        names = map(tables.escaped, class_names)
        yield f"Classes, in the order of their probabilities: {', '.join(names)}."
    for which in Checkpoint:
        chosen = run.get(which, {})
        if "temperature" in chosen:
            threshold = chosen["threshold"]
            at = (
                ""
                if threshold is None
                else f", threshold {threshold:.3f} on {tables.escaped(class_names[1])}"
            )
            yield (
                f"Of the {which} weights, on validation: temperature "
                f"{chosen['temperature']:.3f}{at}."
            )
