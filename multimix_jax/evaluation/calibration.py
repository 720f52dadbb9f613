"""Probabilities that mean what they say: a temperature and a threshold, chosen on validation."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special

from multimix_jax.evaluation.classification import check_classification, classification_metrics

FEWEST = 5  # images of each of two classes that a temperature and a threshold are chosen on
_COLDEST, _HOTTEST = 0.25, 20.0  # a set without a single error would ask for 0
_NEAR = 0.01  # of the logarithm of the temperature, how near to one of them is at it


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What is done to the class probabilities of a network: logits / temperature (Guo et al. 2017).

    Of two classes, class 1 is then predicted from a probability of `threshold` on. It is None of
    more classes, where the most probable one is predicted, and of multi-label ones, where an image
    has any number of them, predicted from .5 on.
    """

    temperature: float = 1.0
    threshold: float | None = None
    multi_label: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}, but it must be more than 0")

    def __call__(self, probabilities: Any) -> jax.Array:
        """Probabilities [...,K] of a softmax, or of sigmoids -> those of the divided logits."""
        log = lambda p: jnp.log(jnp.maximum(p, float(np.finfo(np.float32).tiny)))
        if self.multi_label:
            logits = log(probabilities) - log(1 - probabilities)
            return jax.nn.sigmoid(logits / self.temperature)
        return jax.nn.softmax(log(probabilities) / self.temperature)


def metrics_with(
    calibration: Calibration | None,
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    weights: np.ndarray | None = None,
) -> dict[str, Any]:
    """`classification_metrics`, and what a calibration makes of the calibration error and accuracy.

    These are `ece_calibrated` and, of two classes, `accuracy_at_validation_threshold`.
    """
    measure = functools.partial(
        classification_metrics, labels=labels, class_names=class_names, weights=weights
    )
    metrics = measure(probabilities)
    if calibration is None:
        return metrics
    threshold = 0.5 if calibration.threshold is None else calibration.threshold
    calibrated = measure(np.asarray(calibration(probabilities)), threshold=threshold)
    metrics["ece_calibrated"] = calibrated["ece"]
    if calibration.threshold is not None:
        metrics["accuracy_at_validation_threshold"] = calibrated["accuracy"]
    return metrics


def fit(probabilities: np.ndarray, labels: np.ndarray) -> tuple[Calibration, list[str]]:
    """The temperature of the lowest cross-entropy, and then the most accurate threshold; and what
    they cannot be chosen by, as sentences.

    Meant for the validation set, whose mix of classes the threshold takes over. The temperature
    stays 1 where there are not FEWEST images of two of the classes, and where it would lie at a
    bound, from .25 to 20; the threshold .5 where there are not FEWEST of either of two classes.
    Probabilities and labels are as for `classification_metrics`, with the same ValueError.
    """
    probabilities, labels = check_classification(probabilities, labels, np.shape(probabilities)[-1])
    multi_label = labels.ndim == 2
    if multi_label:  # as many images of two classes
        known = labels >= 0
        probabilities = np.stack([1 - probabilities[known], probabilities[known]], axis=-1)
        labels = labels[known]
    classes = probabilities.shape[1]
    of_two = classes == 2 and not multi_label
    chosen = Calibration(threshold=0.5 if of_two else None, multi_label=multi_label)
    counts = np.bincount(labels, minlength=classes)
    if (counts >= FEWEST).sum() < 2:
        what = "answers of no and of yes" if multi_label else "validation images of two classes"
        numbers = " and ".join(map(str, counts)) if classes == 2 else ", ".join(map(str, counts))
        return chosen, [
            f"probabilities are not calibrated: that takes {FEWEST} {what} or more, but there are "
            f"{numbers}"
        ]
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))

    def cross_entropy(log_temperature: float) -> float:
        cooled = logits / np.exp(log_temperature)
        right = scipy.special.log_softmax(cooled, axis=1)[np.arange(len(labels)), labels]
        return float(-right.mean())

    # Of the logarithm of the temperature the loss has one valley.
    bounds = (np.log(_COLDEST), np.log(_HOTTEST))
    best = scipy.optimize.minimize_scalar(cross_entropy, bounds=bounds, method="bounded")
    doubts = []
    if min(best.x - bounds[0], bounds[1] - best.x) > _NEAR:
        chosen = dataclasses.replace(chosen, temperature=float(np.exp(best.x)))
    else:
        doubts.append(
            "probabilities are not calibrated: the validation images, "
            f"{'nearly all right' if best.x < 0 else 'told no better than by chance'}, would have "
            "any temperature"
        )
    if of_two:
        threshold = best_threshold(np.asarray(chosen(probabilities)), labels)
        chosen = dataclasses.replace(chosen, threshold=threshold)
    return chosen, doubts


def best_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The threshold on the probability of class 1, of two, with the highest accuracy.

    The candidates are the middles between neighbouring scores, so that neither class is always
    predicted; of equally good ones the closest to 0.5. Where all scores are the same it is 0.5.
    """
    probabilities, labels = check_classification(probabilities, labels, 2)
    scores, positions = np.unique(probabilities[:, 1], return_inverse=True)
    if len(scores) == 1:
        return 0.5
    middles = (scores[:-1] + scores[1:]) / 2
    # Each step up turns the images of one score negative: right for class 0, wrong for class 1.
    correct = np.bincount(positions, weights=1 - 2 * labels).cumsum()[:-1]
    best = middles[correct == correct.max()]
    return float(best[np.abs(best - 0.5).argmin()])
