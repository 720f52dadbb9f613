"""How well predicted classes and their probabilities agree with the labels of a set."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_CALIBRATION_BINS = 15


def classification_metrics(
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    threshold: float = 0.5,
    weights: np.ndarray | None = None,
) -> dict[str, Any]:
    """accuracy, balanced_accuracy, f1_<name>, auroc, average_precision, average_precision_<name>
    and ece.

    Of two classes, class 1 is predicted where its probability is at least the threshold; of more,
    the most probable one. balanced_accuracy is the mean recall of the classes that occur; F1 of a
    class neither present nor predicted is 0. auroc (of two classes the same for either) and
    average_precision are the mean over each class against the rest, whose own
    average_precision_<name> is. auroc counts ties half; average precision is the sum of precision
    times increase of recall. Both are NaN where only one class occurs. ece: the expected
    calibration error (Guo et al. 2017) of the class predicted at 0.5, 15 equal bins.

    Multi-label: each class is there or not, predicted from the threshold on; figures are the mean
    over classes of those of the images of which the class is known, its average precision that of
    being there, and auroc_<name> of each class stands beside. NaN of a class that is known of none.

    Args:
      probabilities: `[N, K]` in [0, 1].
      labels: integers `[N]` in 0..K-1; or, multi-label, `[N, K]` of 0 and 1, -1 where unknown.
      class_names: K names.
      threshold: on the probability of class 1, read for two classes and multi-label only.
      weights: `[R, N]`, how often each image is in each of R sets, as from
        `intervals.resampled_counts`; then each metric is an array `[R]`, else one number.

    Raises:
      ValueError: the shapes disagree, there is no image or a label has no class.
    """
    probabilities, labels = check_classification(probabilities, labels, len(class_names))
    sets = np.ones((1, len(labels))) if weights is None else weights
    if labels.ndim == 1:
        metrics = _metrics_of_sets(probabilities, labels, sets, class_names, threshold)
    else:
        each = {}
        for k, name in enumerate(class_names):
            known = labels[:, k] >= 0
            p = probabilities[known, k]
            pairs, there = np.stack([1 - p, p], axis=-1), labels[known, k]
            each[name] = _metrics_of_sets(pairs, there, sets[:, known], ("", name), threshold)
        metrics = _mean_over_classes(each)
    if weights is None:
        return {name: float(values[0]) for name, values in metrics.items()}
    return metrics


def predicted_classes(probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Classes [N] of probabilities [N,K], as in `classification_metrics`."""
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] >= threshold).astype(int)
    return probabilities.argmax(1)


def of_class(
    probabilities: np.ndarray, labels: np.ndarray, index: int
) -> tuple[np.ndarray, np.ndarray]:
    """Probability [n] of a class, and whether an image is of it, bool [n], of the images of which
    that is known; by probabilities [N,K] and labels [N], or [N,K] of multi-label."""
    if labels.ndim == 1:
        return probabilities[:, index], labels == index
    known = labels[:, index] >= 0
    return probabilities[known, index], labels[known, index] > 0


def share_right(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float [N]: 1 where the class is right at .5, else 0; multi-label, the share of the known
    classes, of which each image has one or more."""
    if labels.ndim == 2:
        right = (probabilities >= 0.5) == (labels > 0)
        return right.mean(axis=1, where=labels >= 0)
    return (predicted_classes(probabilities) == labels).astype(float)


def accuracy_of_each(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float [N], what each image adds to the accuracy at .5, which is their mean: 1 where the class
    is right, else 0; multi-label, an answer weighs the more, the fewer are known of its class."""
    if labels.ndim == 1:
        return share_right(probabilities, labels)
    known = labels >= 0
    right = known & ((probabilities >= 0.5) == (labels > 0))
    counts = known.sum(axis=0)
    return len(labels) * (right / counts.clip(1)).sum(axis=1) / (counts > 0).sum()


def roc_curve(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The receiver operating characteristic of `scores` [N], bool `positive` [N].

    False and true positive rate [T+1], from (0, 0) to (1, 1), at each of the T different scores,
    the highest first; zeros where there is no negative, or no positive.
    """
    values, place = np.unique(-scores, return_inverse=True)
    rates = []
    for counted in (~positive, positive):
        counts = np.bincount(place, weights=counted, minlength=len(values))
        rates.append(np.concatenate([[0.0], counts.cumsum() / max(counted.sum(), 1)]))
    return rates[0], rates[1]


def reliability_curve(
    probability: np.ndarray, positive: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean probability [N] in [0, 1], and share of the `positive` (bool [N]), in each of ten bins.

    They are of equal width; those of fewer than five images are left out.
    """
    place = np.minimum((probability * 10).astype(int), 9)
    used = [place == b for b in range(10) if (place == b).sum() >= 5]
    return (
        np.array([probability[chosen].mean() for chosen in used]),
        np.array([positive[chosen].mean() for chosen in used]),
    )


def check_classification(
    probabilities: np.ndarray, labels: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same as arrays; ValueError where they do not belong together."""
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    wanted = (len(labels), classes)
    if probabilities.shape != wanted or labels.shape not in (wanted[:1], wanted) or not len(labels):
        raise ValueError(
            f"probabilities are {probabilities.shape} for {len(labels)} labels, expected one row "
            f"per label, at least one, and {classes} columns, one per class"
        )
    least, largest = (0, classes - 1) if labels.ndim == 1 else (-1, 1)
    if labels.min() < least or labels.max() > largest or (labels.max(axis=-1) < 0).any():
        raise ValueError(
            f"labels reach from {labels.min()} to {labels.max()}, expected 0 to {largest}: "
            "leave unlabelled images out"
        )
    return probabilities, labels


def _metrics_of_sets(
    probabilities: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    class_names: Sequence[str],
    threshold: float,
) -> dict[str, np.ndarray]:
    classes = len(class_names)
    predicted = predicted_classes(probabilities, threshold)
    cells = np.eye(classes * classes)[labels * classes + predicted]
    confusion = (weights @ cells).reshape(-1, classes, classes)
    present, guessed = confusion.sum(2), confusion.sum(1)
    right = np.diagonal(confusion, axis1=1, axis2=2)
    metrics = {
        "accuracy": _ratio(right.sum(1), weights.sum(1)),
        "balanced_accuracy": _mean_of_defined(_ratio(right, present)),
    }
    f1 = 2 * right / np.maximum(present + guessed, 1)
    f1[weights.sum(1) == 0] = np.nan
    metrics.update({f"f1_{name}": f1[:, k] for k, name in enumerate(class_names)})
    ranked = [_ranking(probabilities[:, k], labels == k, weights) for k in range(classes)]
    aurocs, precisions = zip(*ranked, strict=True)
    # Either of two classes has the same AUROC, but for rounding.
    metrics["auroc"] = aurocs[1] if classes == 2 else _mean_of_defined(np.stack(aurocs, 1))
    metrics["average_precision"] = _mean_of_defined(np.stack(precisions, 1))
    named = zip(class_names, precisions, strict=True)
    metrics.update({f"average_precision_{name}": values for name, values in named})
    metrics["ece"] = _calibration_error(probabilities, labels, weights)
    return metrics


def _mean_over_classes(each: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Of classes that are each there or not, with F1, average precision and AUROC of each."""

    def mean(values: Iterable[np.ndarray]) -> np.ndarray:
        return _mean_of_defined(np.stack(list(values), 1))

    of_all = lambda metric: mean(metrics[metric] for metrics in each.values())
    own = lambda metric: {f"{metric}_{name}": m[f"{metric}_{name}"] for name, m in each.items()}
    precisions = own("average_precision")
    return {
        **{metric: of_all(metric) for metric in ("accuracy", "balanced_accuracy")},
        **own("f1"),
        "auroc": of_all("auroc"),
        "average_precision": mean(precisions.values()),
        **precisions,
        "ece": of_all("ece"),
        **{f"auroc_{name}": metrics["auroc"] for name, metrics in each.items()},
    }


def _ranking(
    scores: np.ndarray, positive: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and average precision of R sets; NaN for a set without positives or negatives."""
    if not len(scores):
        return np.full(len(weights), np.nan), np.full(len(weights), np.nan)
    order = np.argsort(-scores)
    _, starts = np.unique(-scores[order], return_index=True)  # Equal scores count as one step.
    hits = np.add.reduceat((weights * positive)[:, order], starts, axis=1)
    misses = np.add.reduceat((weights * ~positive)[:, order], starts, axis=1)
    hits_so_far, misses_so_far = hits.cumsum(1), misses.cumsum(1)
    pairs = hits_so_far[:, -1] * misses_so_far[:, -1]
    # Each negative is outranked by the positives before it, and by half of those beside it.
    auroc = _ratio((misses * (hits_so_far - hits / 2)).sum(1), pairs)
    precision = hits_so_far / np.maximum(hits_so_far + misses_so_far, 1)
    average = _ratio((hits * precision).sum(1), np.where(pairs > 0, hits_so_far[:, -1], 0))
    return auroc, average


def _calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    predicted = predicted_classes(probabilities, 0.5)
    confidence = probabilities[np.arange(len(labels)), predicted]
    bins = np.ceil(confidence * _CALIBRATION_BINS).astype(int).clip(1, _CALIBRATION_BINS) - 1
    gap = (predicted == labels) - confidence
    gaps = weights @ (np.eye(_CALIBRATION_BINS)[bins] * gap[:, None])
    return _ratio(np.abs(gaps).sum(1), weights.sum(1))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """A quotient that is NaN where the denominator is 0."""
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), np.nan)


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """The mean of each row over what is not NaN; NaN where nothing is left."""
    return _ratio(np.nansum(values, 1), (~np.isnan(values)).sum(1))
