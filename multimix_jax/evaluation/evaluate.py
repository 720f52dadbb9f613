"""How good the predictions for a whole data set are."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from multimix_jax.errors import UsageError
from multimix_jax.evaluation import segmentation
from multimix_jax.evaluation.calibration import Calibration, metrics_with
from multimix_jax.evaluation.intervals import percentile_interval, resampled_counts, summarize
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Head

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
        """`image` uint8 [B,H,W,C]; `mask` [B,H,W,C'] of 0/1, `has_mask` [B]; `label` [B], or [B,K]
        multi-label, -1 for none; `valid` [B], False for those that only fill up the last batch."""
        ...


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What is predicted for the N images of a set, beside the truth."""

    ids: Sequence[str]
    masks: Mapping[Head, Sequence[np.ndarray]]  # bool [N,H,W,C'], or a list of volumes
    truths: Sequence[np.ndarray]  # bool, as a mask
    has_mask: np.ndarray  # bool [N], whether the truth is known
    classes: np.ndarray | None  # probabilities [N,K]
    labels: np.ndarray  # int [N], or multi-label [N,K] of 0 and 1; -1 where unknown
    spacing: np.ndarray  # [N,2 or 3] mm per pixel, 0 where unknown
    mask_names: Sequence[str] = ()  # of the masks' channels, where there are several
    distance: Sequence[np.ndarray] | None = None  # signed distance maps, float16

    @property
    def has_label(self) -> np.ndarray:
        """bool [N], whether the classes are known."""
        return self.labels.reshape(len(self.ids), -1).min(axis=1) >= 0


def measure(
    predictions: Predictions,
    *,
    class_names: Sequence[str],
    calibration: Calibration | None = None,
    intervals: bool = True,
) -> tuple[Summary, list[Row]]:
    """All metrics of a set, and one row per image with its own.

    `{metric: {"mean", "ci95", "n"}}`, with "std" for metrics that are per image. Those of
    `Head.MASK_SDF` are called 'sdf/dice', and so on. See `metrics_with` for what a calibration,
    chosen on validation, adds. The intervals of the class metrics take a while.
    """
    rows: list[Row] = [{"id": name} for name in predictions.ids]
    measured = np.flatnonzero(predictions.has_mask).tolist() if predictions.masks else []
    for index in measured:
        rows[index] |= _mask_metrics(predictions, index)
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
    for name, value in measure_sets().items():
        if np.isnan(value):  # what one class alone leaves undefined, such as AUROC
            continue
        summary[name] = {"mean": value, "n": len(known)}
        if intervals:
            summary[name]["ci95"] = percentile_interval(drawn[name])
    for index, probability, label in zip(known, probabilities, labels, strict=True):
        if label.ndim:
            named = zip(class_names, label, strict=True)
            rows[index] |= {f"label_{name}": int(there) for name, there in named}
        else:
            rows[index]["label"] = int(label)
        named = zip(class_names, probability, strict=True)
        rows[index] |= {f"probability_{name}": float(p) for name, p in named}
    return summary, rows


def _mask_metrics(predictions: Predictions, index: int) -> dict[str, float]:
    """Metrics of one image, the mean over its mask channels; of several, the Dice of each, too."""
    spacing, truth = predictions.spacing[index].tolist(), predictions.truths[index]
    values = {}
    for head, masks in predictions.masks.items():
        channels = [
            segmentation.segmentation_metrics(
                masks[index][..., channel], truth[..., channel], spacing=spacing
            )
            for channel in range(truth.shape[-1])
        ]
        for name in channels[0]:
            values[head.metric(name)] = float(np.mean([c[name] for c in channels]))
        if len(channels) > 1:
            names = predictions.mask_names or map(str, range(len(channels)))
            for name, metric in zip(names, channels, strict=True):
                values[head.metric(f"dice_{name}")] = metric["dice"]
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
