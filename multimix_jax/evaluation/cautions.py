"""What to bear in mind about the figures of a run, in sentences for who reads them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from multimix_jax.evaluation.calibration import FEWEST
from multimix_jax.names import BASELINE, Checkpoint, Task

Summary = Mapping[str, Mapping[str, Any]]

# Fewer validation images than these choose little but by chance: a share of 50 is known to within
# .14, and Dice differs far less from image to image.
ENOUGH_CLASSES, ENOUGH_MASKS = 50, 10
_NOTED = 0.01  # a calibration that makes a figure worse by less is not worth a word
_CALIBRATED = {"ece": ("ece_calibrated", 1), "accuracy": ("accuracy_at_validation_threshold", -1)}


def of_masks(name: str, count: int) -> Iterator[str]:
    """Of a validation set of so many images with masks."""
    if count < ENOUGH_MASKS:
        yield f"{name}: the checkpoint is chosen on the masks of {count} validation images alone"


def of_classes(name: str, labels: np.ndarray, class_names: Sequence[str]) -> Iterator[str]:
    """Of a validation set by its labels, int [N], or multi-label [N,K] with -1 where unknown."""
    if len(labels) < ENOUGH_CLASSES:
        yield (
            f"{name}: checkpoint and calibration are chosen on the classes of {len(labels)} "
            "validation images alone"
        )
    there = labels > 0 if labels.ndim == 2 else labels[:, None] == np.arange(len(class_names))
    few = [one for one, n in zip(class_names, there.sum(axis=0), strict=True) if n < FEWEST]
    if few:
        yield f"{name}: fewer than {FEWEST} validation images are {', '.join(few)}"


def of_results(
    results: Mapping[str, Mapping[str, Summary]], tasks: Sequence[Task]
) -> Iterator[str]:
    """Where a calibration makes things worse, where a model is worse than its baseline, and which
    of its tasks is not tested at all."""
    tested = {metric for summary in results.get(Checkpoint.LAST, {}).values() for metric in summary}
    for task, metric, what in (
        (Task.SEG, "dice", "masks are"),
        (Task.CLS, "accuracy", "classes are"),
    ):
        if task in tasks and results.get(BASELINE) and metric not in tested:
            yield f"{what} predicted, but known of no test image"
    found: dict[str, list[str]] = {}
    for which in Checkpoint:
        for data_set, summary in results.get(which, {}).items():
            same = results.get(BASELINE, {}).get(data_set, {})
            for sentence in _of_summary(summary, same):
                found.setdefault(f"{data_set}: {sentence}", []).append(which)
    for sentence, checkpoints in found.items():
        yield f"{sentence} ({' and '.join(checkpoints)} weights)"


def _of_summary(summary: Summary, baseline: Summary) -> Iterator[str]:
    for plain, (calibrated, sign) in _CALIBRATED.items():
        if calibrated in summary:
            before, after = summary[plain]["mean"], summary[calibrated]["mean"]
            if sign * (after - before) > _NOTED:
                yield f"{plain} is {before:.3f}, but {after:.3f} as calibrated"
    for metric in ("dice", "accuracy", "auroc"):
        if metric in summary and metric in baseline:
            ours, theirs = summary[metric]["mean"], baseline[metric]["mean"]
            if ours < theirs:
                yield (
                    f"{metric} {ours:.3f} is below the {theirs:.3f} of the baseline, which looks "
                    "at no image"
                )
