"""What the curves of a chart are of: the numbers of runs, without how they are drawn."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from multimix_jax.evaluation.classification import of_class, reliability_curve, roc_curve
from multimix_jax.runs.record import FinishedRun, Images

Tested = tuple[FinishedRun, Images]  # a run, and its figures of each image of a data set
# Shares of pseudo-labels: accepted; and of which, too, the truth is known; and that are right.
ACCEPTED, KNOWN = "cls/accepted", "cls/accepted_and_known"
CORRECT = "cls/accepted_and_correct"
# What stands at the axes.
ROC = ("false positive rate", "true positive rate")
CALIBRATION = ("predicted probability", "share of the class")


class Curve(NamedTuple):
    """A line of a chart: its name, x [n] and y [n], and how it is drawn."""

    label: str
    x: np.ndarray
    y: np.ndarray
    color: str = "C0"
    style: str = "-"


def history(
    runs: Sequence[FinishedRun], split: str, name: str, smooth: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Steps at which all runs logged a number for a metric, and its mean; `smooth` together."""
    columns = [
        {
            line["step"]: line[name]
            for line in run.history
            if line["split"] == split and math.isfinite(line.get(name, math.nan))
        }
        for run in runs
    ]
    steps = sorted(set.intersection(*map(set, columns)))
    if not steps:
        return np.zeros(0), np.zeros(0)
    values = np.mean([[column[step] for step in steps] for column in columns], axis=0)
    window = np.ones(min(smooth, len(steps))) / min(smooth, len(steps))
    return np.convolve(steps, window, "valid"), np.convolve(values, window, "valid")


def roc(
    label: str, color: str, tested: Sequence[Tested], checkpoint: str, index: int = 1
) -> list[Curve]:
    """Sensitivity for a class against false alarms, of several runs the mean at each rate."""
    curves = [
        roc_curve(*of_class(images.probabilities, images.labels, index)) for _, images in tested
    ]
    if len(curves) == 1:
        return [Curve(label, *curves[0], color)]
    at = np.linspace(0, 1, 201)
    return [Curve(label, at, np.mean([np.interp(at, *one) for one in curves], axis=0), color)]


def calibration(
    label: str, color: str, tested: Sequence[Tested], checkpoint: str, index: int = 1
) -> list[Curve]:
    """How often a class is true, against its probability, in ten bins, all runs together.

    Dashed: after calibration, where that changes probabilities.
    """

    def points(probabilities: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        of_all = zip(probabilities, tested, strict=True)
        known = [of_class(one, images.labels, index) for one, (_, images) in of_all]
        return reliability_curve(*map(np.concatenate, zip(*known, strict=True)))

    curves = [Curve(label, *points([images.probabilities for _, images in tested]), color)]
    chosen = [run.calibration(checkpoint) for run, _ in tested]
    if all(one is not None and one.temperature != 1 for one in chosen):
        calibrated = [
            np.asarray(one(images.probabilities)) for one, (_, images) in zip(chosen, tested) if one
        ]
        curves.append(Curve(f"{label}, calibrated", *points(calibrated), color, "--"))
    return curves


def shown_classes(names: Sequence[str], multi_label: bool) -> Sequence[int]:
    """Which classes have a curve: of two that exclude each other one, which says all."""
    return range(1 if len(names) == 2 and not multi_label else 0, len(names))


def accepted_curves(
    runs: Sequence[FinishedRun], accepted: str, right: str, smooth: int = 1
) -> tuple[Curve, list[Curve]]:
    """The share of weak views whose pseudo-label is accepted; and, where their truth is known, how
    many of those are right, at the steps where some were accepted."""
    steps, of_all = history(runs, "train", ACCEPTED, smooth)
    also, known = history(runs, "train", KNOWN, smooth)
    _, correct = history(runs, "train", CORRECT, smooth)
    share = correct / np.where(known > 0, known, np.nan)
    shown = [Curve(right, also, share)] if np.isfinite(share).any() else []
    return Curve(accepted, steps, of_all), shown
