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

_COLDEST, _HOTTEST = 0.25, 20.0  # a set without a single error would ask for 0


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What is done to the class probabilities of a network: logits / temperature (Guo et al. 2017).

    Of two classes, class 1 is then predicted from a probability of `threshold` on, in [0, 1] or
    just above, never. It is None of more classes, where the most probable one is predicted, and of
    multi-label ones, where an image has any number of them, predicted from .5 on.
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


def fit(probabilities: np.ndarray, labels: np.ndarray) -> Calibration:
    """The temperature of the lowest cross-entropy, and then the most accurate threshold.

    Meant for the validation set, whose mix of classes the threshold takes over. Probabilities and
    labels are as for `classification_metrics`, with the same ValueError.
    """
    probabilities, labels = check_classification(probabilities, labels, np.shape(probabilities)[-1])
    multi_label = labels.ndim == 2
    if multi_label:  # as many images of two classes
        probabilities = np.stack([1 - probabilities, probabilities], axis=-1).reshape(-1, 2)
        labels = labels.ravel()
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))

    def cross_entropy(log_temperature: float) -> float:
        cooled = logits / np.exp(log_temperature)
        right = scipy.special.log_softmax(cooled, axis=1)[np.arange(len(labels)), labels]
        return float(-right.mean())

    # Of the logarithm of the temperature the loss has one valley.
    bounds = (np.log(_COLDEST), np.log(_HOTTEST))
    best = scipy.optimize.minimize_scalar(cross_entropy, bounds=bounds, method="bounded")
    calibration = Calibration(float(np.exp(best.x)), multi_label=multi_label)
    if logits.shape[1] != 2 or multi_label:
        return calibration
    threshold = best_threshold(np.asarray(calibration(probabilities)), labels)
    return dataclasses.replace(calibration, threshold=threshold)


def best_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The threshold on the probability of class 1, of two, with the highest accuracy.

    The candidates are the middles between neighbouring scores, one below all (0) and one above all
    (just over 1); of equally good ones the closest to 0.5.
    """
    probabilities, labels = check_classification(probabilities, labels, 2)
    scores, positions = np.unique(probabilities[:, 1], return_inverse=True)
    middles = (scores[:-1] + scores[1:]) / 2
    candidates = np.concatenate([[0.0], middles, [np.nextafter(1.0, 2.0)]])
    # Each step up turns the images of one score negative: right for class 0, wrong for class 1.
    gains = np.bincount(positions, weights=1 - 2 * labels)
    correct = labels.sum() + np.concatenate([[0.0], gains.cumsum()])
    best = candidates[correct == correct.max()]
    return float(best[np.abs(best - 0.5).argmin()])
