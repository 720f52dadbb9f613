"""How good the predictions for a whole data set are."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np

from multimix_jax.errors import UsageError
from multimix_jax.evaluation import segmentation
from multimix_jax.evaluation.calibration import Calibration, metrics_with
from multimix_jax.evaluation.intervals import percentile_interval, resampled_counts, summarize
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Head, Task

_OF_ONE_CLASS = ("f1", "average_precision", "auroc")
Row = dict[str, float | int | str]
Summary = dict[str, dict[str, Any]]


class EvalSet(Protocol):
    """A data set to evaluate on: `N` images that `batches` gives once each, in the order of ids.

    Volumes have an axis more, and each its own size; batches hold one of them.
    """

    name: str

    @property
    def label_spec(self) -> LabelSpec: ...
    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def has_mask(self) -> np.ndarray: ...  # bool [N], whether the mask is known
    @property
    def spacing(self) -> np.ndarray: ...  # float32 [N,2 or 3], mm per pixel, 0 where unknown
    @property
    def affines(self) -> np.ndarray | None: ...  # voxels to mm, [N,4,4], 0 unknown; None: images

    def images(self, indices: np.ndarray) -> np.ndarray | list[np.ndarray]:
        """Some of the images, by their place in `ids`: uint8 [n,H,W,C], or a list of volumes."""
        ...

    def batches(self, batch_size: int) -> Iterator[Mapping[str, np.ndarray]]:
        """`image` uint8 [B,H,W,C]; `mask` [B,H,W,C'] of 0, 1 and VOID, `has_mask` [B]; `label` [B],
        or [B,K] multi-label, -1 for none; `valid` [B], False for those that only fill up the last
        batch."""
        ...


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What is predicted for the N images of a set, beside the truth."""

    ids: Sequence[str]
    masks: Mapping[Head, Sequence[np.ndarray]]  # bool [N,H,W,C'], or a list of volumes
    truths: Sequence[np.ndarray]  # bool, as a mask, False where it is void
    has_mask: np.ndarray  # bool [N], whether the truth is known
    classes: np.ndarray | None  # probabilities [N,K]
    labels: np.ndarray  # int [N], or multi-label [N,K] of 0 and 1; -1 where unknown
    spacing: np.ndarray  # [N,2 or 3] mm per pixel, 0 where unknown
    voids: Sequence[np.ndarray] | None = None  # bool [N,H,W,1], pixels that do not count, if any
    mask_names: Sequence[str] = ()  # of the masks' channels, where there are several
    distance: Sequence[np.ndarray] | None = None  # signed distance maps, float16

    @property
    def has_label(self) -> np.ndarray:
        """bool [N], whether the class is known, or one of several."""
        return self.labels.reshape(len(self.ids), -1).max(axis=1) >= 0

    def of_task(self, task: Task) -> Self:
        """The masks alone, or the classes alone."""
        if task == Task.SEG:
            return dataclasses.replace(self, classes=None)
        return dataclasses.replace(self, masks={})


def measure(
    predictions: Predictions,
    *,
    class_names: Sequence[str],
    calibration: Calibration | None = None,
    intervals: bool = True,
) -> tuple[Summary, list[Row]]:
    """All metrics of a set, and one row per image with its own.

    `{metric: {"mean", "ci95", "n"}}`, with "std" for metrics that are per image. Those of
    `Head.MASK_SDF` are called 'sdf/dice', and so on. Where some truths are empty, so that a mask
    that is empty, too, has a Dice of 1 and any other 0, 'dice_present' is that of the others and
    'dice_absent' that of the empty ones. See `metrics_with` for what a calibration, chosen on
    validation, adds. The intervals of the class metrics take a while.
    """
    rows: list[Row] = [{"id": name} for name in predictions.ids]
    measured = np.flatnonzero(predictions.has_mask).tolist() if predictions.masks else []
    pixels = tuple(range(predictions.spacing.shape[1]))
    some_empty = not all(predictions.truths[index].any(axis=pixels).all() for index in measured)
    for index in measured:
        rows[index] |= _mask_metrics(predictions, index, some_empty)
    names = dict.fromkeys(name for index in measured for name in rows[index] if name != "id")
    summary: Summary = {
        name: summarize(np.array([rows[index].get(name, np.nan) for index in measured], float))
        for name in names
    }
    known = np.flatnonzero(predictions.has_label).tolist()
    if predictions.classes is None or not known:
        return summary, rows
    probabilities, labels = predictions.classes[known], predictions.labels[known]
    measure_sets = functools.partial(
        metrics_with, calibration, probabilities, labels, class_names=class_names
    )
    drawn = measure_sets(weights=resampled_counts(len(known))) if intervals else {}
    counts = {}
    if labels.ndim == 2:
        of_each = zip(class_names, (labels >= 0).sum(axis=0).tolist(), strict=True)
        counts = {f"{metric}_{name}": n for name, n in of_each for metric in _OF_ONE_CLASS}
    for name, value in measure_sets().items():
        if np.isnan(value):  # what one class alone leaves undefined, such as AUROC
            continue
        summary[name] = {"mean": value, "n": counts.get(name, len(known))}
        if intervals:
            summary[name]["ci95"] = percentile_interval(drawn[name])
    for index, probability, label in zip(known, probabilities, labels, strict=True):
        if label.ndim:
            named = zip(class_names, label, strict=True)
            rows[index] |= {f"label_{name}": int(there) for name, there in named if there >= 0}
        else:
            rows[index]["label"] = int(label)
        named = zip(class_names, probability, strict=True)
        rows[index] |= {f"probability_{name}": float(p) for name, p in named}
    return summary, rows


def _mask_metrics(predictions: Predictions, index: int, some_empty: bool) -> dict[str, float]:
    """Metrics of one image, the mean over its mask channels; of several, the Dice of each, too."""
    spacing, truth = predictions.spacing[index].tolist(), predictions.truths[index]
    void = None if predictions.voids is None else predictions.voids[index][..., 0]
    values = {}
    for head, masks in predictions.masks.items():
        channels = [
            segmentation.segmentation_metrics(
                masks[index][..., channel], truth[..., channel], spacing=spacing, void=void
            )
            for channel in range(truth.shape[-1])
        ]
        if some_empty:
            for channel, metrics in enumerate(channels):
                kind = "dice_present" if truth[..., channel].any() else "dice_absent"
                metrics[kind] = metrics["dice"]
        for name in dict.fromkeys(name for metrics in channels for name in metrics):
            known = [metrics[name] for metrics in channels if name in metrics]
            values[head.metric(name)] = float(np.mean(known))
        if len(channels) > 1:
            names = predictions.mask_names or map(str, range(len(channels)))
            for name, metrics in zip(names, channels, strict=True):
                for kind in ("dice", "dice_present", "dice_absent"):
                    if kind in metrics:
                        values[head.metric(f"{kind}_{name}")] = metrics[kind]
    return values


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
