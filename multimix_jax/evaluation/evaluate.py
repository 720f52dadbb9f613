"""Evaluation: what a model predicts for whole data sets, and how good that is."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from multimix_jax.errors import UsageError
from multimix_jax.evaluation import classification, geometry, segmentation
from multimix_jax.evaluation.calibration import Calibration
from multimix_jax.evaluation.intervals import percentile_interval, summarize

PyTree = Any
Predict = Callable[[PyTree, np.ndarray], Mapping[str, Any]]
Row = dict[str, float | int | str]
Summary = dict[str, dict[str, Any]]


class EvalSet(Protocol):
    """A data set to evaluate on: `N` images that `batches` gives once each, in the order of ids.

    Volumes have an axis more, and each its own size; batches hold one of them.
    """

    name: str
    class_names: Sequence[str]
    exclusive: bool  # whether an image has one class; else any, each by itself
    mask_names: Sequence[str]  # of the mask's channels; none where there is one

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def has_mask(self) -> np.ndarray:
        """bool [N], whether the mask is known."""
        ...

    @property
    def spacing(self) -> np.ndarray:
        """float32 [N,2 or 3], mm per pixel along each axis, 0 where unknown."""
        ...

    @property
    def affines(self) -> np.ndarray | None:
        """From voxels to mm, float64 [N,4,4], zeros where unknown; None of images."""
        ...

    def images(self, indices: np.ndarray) -> np.ndarray | list[np.ndarray]:
        """Some of the images, by their place in `ids`: uint8 [n,H,W,C], or a list of volumes."""
        ...

    def batches(self, batch_size: int) -> Iterator[Mapping[str, np.ndarray]]:
        """`image` uint8 [B,H,W,C]; `mask` [B,H,W,C'] of 0/1, `has_mask` [B]; `label` [B], or of
        independent classes [B,K], -1 for none; `valid` [B], False for images that only fill up the
        last batch."""
        ...


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model says of the N images of a set, beside the truth.

    Attributes:
      ids: N names.
      masks: predicted probability of at least .5, bool [N,H,W,C'], or a list of volumes; of each
        way that the method has: 'mask' first, and others such as 'mask_sdf'. {} if none.
      truths: bool, as a mask.
      has_mask: bool [N], whether the truth is known.
      classes: [N,K] probabilities, or None.
      labels: int [N], or of independent classes [N,K] of 0 and 1; -1 where unknown.
      spacing: [N,2 or 3] mm per pixel, 0 where unknown.
      mask_names: of the masks' channels, where there are several.
      distance: signed distance maps found, float16, if any.
    """

    ids: Sequence[str]
    masks: Mapping[str, Sequence[np.ndarray]]
    truths: Sequence[np.ndarray]
    has_mask: np.ndarray
    classes: np.ndarray | None
    labels: np.ndarray
    spacing: np.ndarray
    mask_names: Sequence[str] = ()
    distance: Sequence[np.ndarray] | None = None

    @property
    def has_label(self) -> np.ndarray:
        """bool [N], whether the classes are known."""
        return self.labels.reshape(len(self.ids), -1).min(axis=1) >= 0


def predict_set(
    predict: Predict,
    variables: PyTree,
    eval_set: EvalSet,
    *,
    batch_size: int,
    components: int = 0,
) -> Predictions:
    """Runs a model over a data set.

    Args:
      predict: compiled `Objective.predict`.
      variables: of the model.
      eval_set: the images.
      batch_size: images per call; the same for every set, so that the model compiles once.
      components: how many connected parts of each mask are kept, the largest; 0 for all.
    """
    columns: dict[str, list[np.ndarray]] = {}
    for batch in eval_set.batches(batch_size):
        output = predict(variables, batch["image"])
        row = {key: batch[key] for key in ("mask", "has_mask", "label")}
        row["truth"] = row.pop("mask").astype(bool)
        for name in output:
            found = np.asarray(output[name])
            if name.startswith("mask"):
                masks = found >= 0.5
                found = np.stack([geometry.largest_components(m, components) for m in masks])
            row[name] = found.astype(np.float16) if name == "distance" else found
        for key, value in row.items():
            columns.setdefault(key, []).append(value[batch["valid"]])
    joined = {key: _join(parts) for key, parts in columns.items()}
    # JAX sorts names; an average comes after what it is of.
    ways = sorted(joined, key=lambda name: name.endswith("_average"))
    return Predictions(
        ids=eval_set.ids,
        masks={name: joined[name] for name in ways if name.startswith("mask")},
        distance=joined.get("distance"),
        truths=joined["truth"],
        has_mask=joined["has_mask"],
        classes=joined.get("classes"),
        labels=joined["label"],
        spacing=eval_set.spacing,
        mask_names=eval_set.mask_names,
    )


def _join(parts: list[np.ndarray]) -> Any:
    """One array of all; of volumes of several sizes a list."""
    if len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    return [entry for part in parts for entry in part]


def predict_same(answer: Mapping[str, np.ndarray]) -> Predict:
    """Says the same of every image: probabilities `mask` [H,W,C'], `classes` [K], if any.

    For an image of another size the mask is stretched.
    """

    def predict(_: PyTree, images: np.ndarray) -> dict[str, Any]:
        said = dict(answer)
        if "mask" in said:
            said["mask"] = geometry.stretch(said["mask"], images.shape[1:-1])
        return {key: np.broadcast_to(x, (len(images), *x.shape)) for key, x in said.items()}

    return predict


def measure(
    predictions: Predictions,
    *,
    class_names: Sequence[str],
    calibration: Calibration | None = None,
    intervals: bool = True,
) -> tuple[Summary, list[Row]]:
    """All metrics of a set.

    Args:
      predictions: of the set.
      class_names: what the model's classes are called.
      calibration: chosen on validation; adds `ece_calibrated` and, of two classes,
        `accuracy_at_validation_threshold`.
      intervals: whether to compute the intervals of the class metrics, which takes a while.

    Returns:
      `{metric: {"mean", "ci95", "n"}}`, with "std" for metrics that are per image; and one row per
      image with its own figures. Those of 'mask_sdf' are called 'sdf/dice', and so on.
    """
    rows: list[Row] = [{"id": name} for name in predictions.ids]
    summary: Summary = {}
    if predictions.masks and predictions.has_mask.any():
        measured = np.flatnonzero(predictions.has_mask).tolist()
        for index in measured:
            rows[index] |= _mask_metrics(predictions, index)
        names = dict.fromkeys(name for index in measured for name in rows[index] if name != "id")
        per_image = {
            name: np.array([rows[index].get(name, np.nan) for index in measured], float)
            for name in names
        }
        summary |= {k: dict(v) for k, v in summarize(per_image).items()}
    known = predictions.has_label
    if predictions.classes is not None and known.any():
        probabilities, labels = predictions.classes[known], predictions.labels[known]
        summary |= _class_metrics(probabilities, labels, class_names, calibration, intervals)
        for index in np.flatnonzero(known).tolist():
            probability = predictions.classes[index]
            rows[index] |= label_columns(predictions.labels[index], class_names)
            rows[index] |= {
                f"probability_{name}": float(p)
                for name, p in zip(class_names, probability, strict=True)
            }
    return summary, rows


def label_columns(label: np.ndarray, class_names: Sequence[str]) -> dict[str, float | int | str]:
    """`label`, of one image's; of independent classes a `label_<name>` of 0 or 1 for each."""
    if label.ndim == 0:
        return {"label": int(label)}
    return {f"label_{name}": int(there) for name, there in zip(class_names, label, strict=True)}


def _mask_metrics(predictions: Predictions, index: int) -> dict[str, float]:
    """Metrics of one image, the mean over its mask channels; of several, the Dice of each, too."""
    spacing, truth = predictions.spacing[index], predictions.truths[index]
    found = {}
    for way, masks in predictions.masks.items():
        channels = [
            segmentation.segmentation_metrics(
                masks[index][..., channel],
                truth[..., channel],
                spacing=spacing.tolist() if (spacing > 0).all() else None,
            )
            for channel in range(truth.shape[-1])
        ]
        prefix = way.removeprefix("mask").removeprefix("_")
        for name in channels[0]:
            key = f"{prefix}/{name}" if prefix else name
            found[key] = float(np.mean([c[name] for c in channels]))
        if len(channels) > 1:
            key = f"{prefix}/dice" if prefix else "dice"
            names = predictions.mask_names or map(str, range(len(channels)))
            named = zip(names, channels, strict=True)
            found |= {f"{key}_{name}": metric["dice"] for name, metric in named}
    return found


def _class_metrics(
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    calibration: Calibration | None,
    intervals: bool,
) -> Summary:
    def measure_at(probabilities: np.ndarray, threshold: float = 0.5) -> Summary:
        values = classification.classification_metrics(
            probabilities, labels, class_names=class_names, threshold=threshold
        )
        # What one class alone leaves undefined, such as AUROC, is left out.
        summary: Summary = {
            name: {"mean": value, "n": len(labels)}
            for name, value in values.items()
            if not np.isnan(value)
        }
        if intervals:
            drawn = classification.classification_resamples(
                probabilities, labels, class_names=class_names, threshold=threshold
            )
            for name, entry in summary.items():
                entry["ci95"] = percentile_interval(drawn[name])
        return summary

    summary = measure_at(probabilities)
    if calibration is not None:
        calibrated = measure_at(np.asarray(calibration(probabilities)), calibration.cut)
        summary["ece_calibrated"] = calibrated["ece"]
        if calibration.threshold is not None:
            summary["accuracy_at_validation_threshold"] = calibrated["accuracy"]
    return summary


def validation_score(summaries: Sequence[Summary]) -> float:
    """What the best checkpoint is chosen by: the mean of Dice and AUROC over validation sets.

    Accuracy stands in for AUROC where the set has one class only.
    """
    scores = []
    for summary in summaries:
        if "dice" in summary:
            scores.append(summary["dice"]["mean"])
        if "accuracy" in summary:
            scores.append(summary.get("auroc", summary["accuracy"])["mean"])
    if not scores:
        raise UsageError(
            "no validation set has a mask or a label that the model predicts; check "
            "config.seg_data and config.cls_data"
        )
    return float(np.mean(scores))
