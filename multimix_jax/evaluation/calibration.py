"""Probabilities that mean what they say: a temperature and a threshold, chosen on validation."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from multimix_jax.evaluation import metrics

_COLDEST, _HOTTEST = 0.25, 20.0  # a set without a single error would ask for 0


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What is done to the class probabilities of a network.

    Attributes:
      temperature: the logits are divided by it (Guo et al. 2017); more than 1 for a network that is
        too sure of itself.
      threshold: on the probability of class 1 after that, from which it is predicted, in [0, 1]
        or just above, never; None of other than two classes, where the most probable one is, and
        of independent ones, which are predicted from .5 on.
      exclusive: whether an image has one class; else any of them, each by itself.
    """

    temperature: float = 1.0
    threshold: float | None = None
    exclusive: bool = True

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}, but it must be more than 0")

    @property
    def cut(self) -> float:
        """Where `metrics` is to cut the calibrated probability of class 1."""
        return 0.5 if self.threshold is None else self.threshold

    def __call__(self, probabilities: Any) -> jax.Array:
        """Probabilities [...,K] of a softmax, or of sigmoids -> those of the divided logits."""
        log = lambda p: jnp.log(jnp.maximum(p, float(np.finfo(np.float32).tiny)))
        if self.exclusive:
            return jax.nn.softmax(log(probabilities) / self.temperature)
        logits = log(probabilities) - log(1 - probabilities)
        return jax.nn.sigmoid(logits / self.temperature)


def fit(probabilities: np.ndarray, labels: np.ndarray) -> Calibration:
    """The temperature of the lowest cross-entropy, and then the most accurate threshold.

    Meant for the validation set, whose mix of classes the threshold takes over.

    Args:
      probabilities: [N,K] of a softmax, or of sigmoids.
      labels: integers [N] in 0..K-1; or, of independent classes, [N,K] of 0 and 1.

    Raises:
      ValueError: the shapes disagree, there is no image or a label has no class.
    """
    probabilities, labels = metrics.check_classification(
        probabilities, labels, np.shape(probabilities)[-1]
    )
    exclusive = labels.ndim == 1
    if not exclusive:  # as many images of two classes
        probabilities = np.stack([1 - probabilities, probabilities], axis=-1).reshape(-1, 2)
        labels = labels.ravel()
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))

    def cross_entropy(log_temperature: float) -> float:
        cooled = logits / np.exp(log_temperature)
        cooled -= cooled.max(axis=1, keepdims=True)
        right = cooled[np.arange(len(labels)), labels]
        return float((np.log(np.exp(cooled).sum(axis=1)) - right).mean())

    # Of the logarithm of the temperature the loss has one valley.
    bounds = (np.log(_COLDEST), np.log(_HOTTEST))
    found = scipy.optimize.minimize_scalar(cross_entropy, bounds=bounds, method="bounded")
    calibration = Calibration(float(np.exp(found.x)), exclusive=exclusive)
    if logits.shape[1] != 2 or not exclusive:
        return calibration
    threshold = metrics.best_threshold(np.asarray(calibration(probabilities)), labels)
    return dataclasses.replace(calibration, threshold=threshold)
