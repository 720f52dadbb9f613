"""Evaluation: what a model predicts for whole data sets, and how good that is."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from multimix_jax import metrics
from multimix_jax.errors import UsageError

PyTree = Any
Predict = Callable[[PyTree, np.ndarray], Mapping[str, jax.Array]]
Row = dict[str, float | int | str]
Summary = dict[str, dict[str, Any]]


class EvalSet(Protocol):
    """A data set to evaluate on: `N` images that `batches` gives once each, in the order of ids."""

    name: str
    class_names: Sequence[str]

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def spacing(self) -> np.ndarray:
        """float32 [N,2], mm per pixel (row, column), 0 where unknown."""
        ...

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Some of the images, uint8 [n,H,W,C], by their place in `ids`."""
        ...

    def batches(self, batch_size: int) -> Iterator[Mapping[str, np.ndarray]]:
        """`image` uint8 [B,H,W,C]; `mask` [B,H,W,C'] of 0/1, `has_mask` [B]; `label` [B], -1 for
        none; `valid` [B], False for images that only fill up the last batch."""
        ...


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model says of the N images of a set, beside the truth.

    Attributes:
      ids: N names.
      masks: bool [N,H,W,C'], predicted probability of at least .5, or None.
      truths: bool [N,H,W,C'].
      has_mask: bool [N], whether the truth is known.
      classes: [N,K] probabilities, or None.
      labels: int [N], -1 where unknown.
      spacing: [N,2] mm per pixel, 0 where unknown.
    """

    ids: Sequence[str]
    masks: np.ndarray | None
    truths: np.ndarray
    has_mask: np.ndarray
    classes: np.ndarray | None
    labels: np.ndarray
    spacing: np.ndarray


def predict_set(
    predict: Predict, variables: PyTree, eval_set: EvalSet, *, batch_size: int
) -> Predictions:
    """Runs a model over a data set.

    Args:
      predict: compiled `Objective.predict`.
      variables: of the model.
      eval_set: the images.
      batch_size: images per call; the same for every set, so that the model compiles once.
    """
    columns: dict[str, list[np.ndarray]] = {}
    for batch in eval_set.batches(batch_size):
        output = predict(variables, batch["image"])
        row = {key: batch[key] for key in ("mask", "has_mask", "label")}
        if "mask" in output:
            row["predicted"] = np.asarray(output["mask"]) >= 0.5
        if "classes" in output:
            row["classes"] = np.asarray(output["classes"])
        for key, value in row.items():
            columns.setdefault(key, []).append(value[batch["valid"]])
    joined = {key: np.concatenate(parts) for key, parts in columns.items()}
    return Predictions(
        ids=eval_set.ids,
        masks=joined.get("predicted"),
        truths=joined["mask"].astype(bool),
        has_mask=joined["has_mask"],
        classes=joined.get("classes"),
        labels=joined["label"],
        spacing=eval_set.spacing,
    )


def predict_same(answer: Mapping[str, np.ndarray]) -> Predict:
    """Says the same of every image: probabilities `mask` [H,W,C'], `classes` [K], if any."""

    def predict(_: PyTree, images: np.ndarray) -> dict[str, Any]:
        return {key: np.broadcast_to(x, (len(images), *x.shape)) for key, x in answer.items()}

    return predict


def measure(
    predictions: Predictions,
    *,
    class_names: Sequence[str],
    threshold: float | None = None,
    intervals: bool = True,
) -> tuple[Summary, list[Row]]:
    """All metrics of a set.

    Args:
      predictions: of the set.
      class_names: what the model's classes are called.
      threshold: on the probability of class 1, chosen on validation; adds
        `accuracy_at_validation_threshold`.
      intervals: whether to compute the intervals of the class metrics, which takes a while.

    Returns:
      `{metric: {"mean", "ci95", "n"}}`, with "std" for metrics that are per image; and one row per
      image with its own figures.
    """
    rows: list[Row] = [{"id": name} for name in predictions.ids]
    summary: Summary = {}
    if predictions.masks is not None and predictions.has_mask.any():
        measured = np.flatnonzero(predictions.has_mask).tolist()
        for index in measured:
            rows[index] |= _mask_metrics(predictions, index)
        names = dict.fromkeys(name for index in measured for name in rows[index] if name != "id")
        per_image = {
            name: np.array([rows[index].get(name, np.nan) for index in measured], float)
            for name in names
        }
        summary |= {k: dict(v) for k, v in metrics.summarize(per_image).items()}
    if predictions.classes is not None and (predictions.labels >= 0).any():
        known = predictions.labels >= 0
        probabilities, labels = predictions.classes[known], predictions.labels[known]
        summary |= _class_metrics(probabilities, labels, class_names, threshold, intervals)
        for index in np.flatnonzero(known).tolist():
            probability = predictions.classes[index]
            rows[index] |= {"label": int(predictions.labels[index])}
            rows[index] |= {
                f"probability_{name}": float(p)
                for name, p in zip(class_names, probability, strict=True)
            }
    return summary, rows


def _mask_metrics(predictions: Predictions, index: int) -> dict[str, float]:
    """Metrics of one image, the mean over its mask channels."""
    assert predictions.masks is not None
    spacing = predictions.spacing[index]
    channels = [
        metrics.segmentation_metrics(
            predictions.masks[index, ..., channel],
            predictions.truths[index, ..., channel],
            spacing=spacing.tolist() if (spacing > 0).all() else None,
        )
        for channel in range(predictions.masks.shape[-1])
    ]
    return {name: float(np.mean([c[name] for c in channels])) for name in channels[0]}


def _class_metrics(
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    threshold: float | None,
    intervals: bool,
) -> Summary:
    def measure_at(threshold: float) -> Summary:
        values = metrics.classification_metrics(
            probabilities, labels, class_names=class_names, threshold=threshold
        )
        # What one class alone leaves undefined, such as AUROC, is left out.
        summary: Summary = {
            name: {"mean": value, "n": len(labels)}
            for name, value in values.items()
            if not np.isnan(value)
        }
        if intervals:
            found = metrics.classification_intervals(
                probabilities, labels, class_names=class_names, threshold=threshold
            )
            summary = {name: {**entry, "ci95": found[name]} for name, entry in summary.items()}
        return summary

    summary = measure_at(0.5)
    if threshold is not None:
        summary["accuracy_at_validation_threshold"] = measure_at(threshold)["accuracy"]
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
