"""Reported numbers: segmentation per image, classification per set, and how sure they are."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from skimage.metrics import structural_similarity

from multimix_jax.evaluation import geometry

_SSIM_WINDOW = 7
_CALIBRATION_BINS = 15


class Summary(TypedDict):
    """One metric over images: mean, standard deviation, 95 % interval of the mean, count."""

    mean: float
    std: float
    ci95: tuple[float, float]
    n: int


def segmentation_metrics(
    prediction: np.ndarray, truth: np.ndarray, *, spacing: Sequence[float] | None = None
) -> dict[str, float]:
    """Overlap and distance between two masks of one image.

    With the counts TP, FP, FN of pixels: dice = 2TP / (2TP + FP + FN), jaccard = TP / (TP + FP +
    FN), precision = TP / (TP + FP), recall = TP / (TP + FN), all in [0, 1]. ssim compares the
    masks as images of range 1 (Wang et al. 2004) in uniform windows of 7 pixels a side, in
    [-1, 1]. From the distances of either surface to the other: hd, the greatest (Hausdorff);
    hd95, the greater of the two 95th percentiles; assd, the mean over both surfaces together;
    ahd, the greater of the two means (average Hausdorff). Both masks empty: overlaps 1,
    distances 0. One empty: overlaps 0, distances the diagonal of the image.

    Args:
      prediction: bool, `[H, W]` or `[D, H, W]`, at least 7 pixels a side.
      truth: bool of the same shape.
      spacing: mm between neighbours along each axis; zeros mean that it is unknown.

    Returns:
      dice, jaccard, precision, recall, ssim, and in pixels hd, hd95, assd, ahd; where the spacing
      is known hd_mm, hd95_mm, assd_mm and ahd_mm too.

    Raises:
      ValueError: the masks are not bool, differ in shape or are too small.
    """
    for name, mask in (("prediction", prediction), ("truth", truth)):
        if mask.dtype != np.bool_:
            raise ValueError(f"{name} is {mask.dtype}, expected bool: compare it with a threshold")
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction is {prediction.shape}, but truth is {truth.shape}")
    if min(truth.shape) < _SSIM_WINDOW:
        raise ValueError(
            f"masks are {truth.shape}, but SSIM needs {_SSIM_WINDOW} pixels a side: use a larger "
            "size, and drop the axis of the channel"
        )
    both, ours, theirs = (int(mask.sum()) for mask in (prediction & truth, prediction, truth))
    if ours + theirs == 0:
        dice = jaccard = precision = recall = 1.0
    else:
        dice = 2 * both / (ours + theirs)
        jaccard = both / (ours + theirs - both)
        precision = both / max(ours, 1)
        recall = both / max(theirs, 1)
    ssim = structural_similarity(
        prediction.astype(np.float64),
        truth.astype(np.float64),
        data_range=1.0,
        win_size=_SSIM_WINDOW,
    )
    metrics = {
        "dice": dice,
        "jaccard": jaccard,
        "precision": precision,
        "recall": recall,
        "ssim": float(ssim),
        **_distances(prediction, truth, None),
    }
    if spacing is not None and min(spacing) > 0:
        in_mm = _distances(prediction, truth, spacing)
        metrics.update({f"{name}_mm": value for name, value in in_mm.items()})
    return metrics


def _distances(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None
) -> dict[str, float]:
    names = ("hd", "hd95", "assd", "ahd")
    ours, theirs = prediction.any(), truth.any()
    if not (ours or theirs):
        return dict.fromkeys(names, 0.0)
    if not (ours and theirs):
        sides = np.asarray(truth.shape) * (1.0 if spacing is None else np.asarray(spacing))
        return dict.fromkeys(names, float(np.linalg.norm(sides)))
    directed = geometry.surface_distances(prediction, truth, spacing)
    values = (
        max(distances.max() for distances in directed),
        max(np.percentile(distances, 95) for distances in directed),
        np.concatenate(directed).mean(),
        max(distances.mean() for distances in directed),
    )
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def summarize(per_image: Mapping[str, np.ndarray]) -> dict[str, Summary]:
    """Mean, standard deviation over images (of the population), 95 % interval and count.

    Args:
      per_image: one vector per metric; NaN where an image has no value, such as a distance in mm
        without a spacing. Those are left out.

    Returns:
      For each metric `mean`, `std`, `ci95` (see `bootstrap_interval`) and `n`, the images that
      have a value; NaN where none has.
    """
    summary: dict[str, Summary] = {}
    for name, column in per_image.items():
        values = np.asarray(column, np.float64)
        values = values[~np.isnan(values)]
        known = len(values) > 0
        summary[name] = {
            "mean": float(values.mean()) if known else np.nan,
            "std": float(values.std()) if known else np.nan,
            "ci95": bootstrap_interval(values) if known else (np.nan, np.nan),
            "n": len(values),
        }
    return summary


def bootstrap_interval(
    values: np.ndarray, *, seed: int = 0, resamples: int = 1000
) -> tuple[float, float]:
    """The 95 % percentile interval of the mean over images (Efron 1979).

    Args:
      values: `[N]`, one number per image.
      seed: of the resampling.
      resamples: how many times N images are drawn with replacement.

    Returns:
      The 2.5th and the 97.5th percentile of the resampled means.
    """
    return percentile_interval(mean_resamples(values, seed=seed, resamples=resamples))


def mean_resamples(values: np.ndarray, *, seed: int = 0, resamples: int = 1000) -> np.ndarray:
    """Means [R] of `values` [N] over N images drawn with replacement, see `bootstrap_interval`."""
    weights = _resampled_weights(len(values), seed, resamples)
    return weights @ np.asarray(values, np.float64) / len(values)


def classification_metrics(
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    threshold: float = 0.5,
) -> dict[str, float]:
    """How well predicted classes and their probabilities agree with the labels of a set.

    Two classes: class 1 is the positive one, predicted where its probability is at least the
    threshold. More: the most probable class; AUROC and average precision are the mean over each
    class against the rest. balanced_accuracy is the mean recall of the classes that occur; F1 of
    a class neither present nor predicted is 0. auroc counts ties half; average_precision is the
    sum of precision times increase of recall. Both are NaN where only one class occurs. ece: the
    expected calibration error (Guo et al. 2017) of the class predicted at 0.5, 15 equal bins.

    Independent classes: each is there or not, predicted from the threshold on; figures are the mean
    over classes of those of two, and auroc_<name> of each class stands beside.

    Args:
      probabilities: `[N, K]` in [0, 1].
      labels: integers `[N]` in 0..K-1; or, of independent classes, `[N, K]` of 0 and 1.
      class_names: K names, for the keys of F1.
      threshold: on the probability of class 1, read for two classes and independent ones only.

    Returns:
      accuracy, balanced_accuracy, f1_<name> for each class, auroc, average_precision, ece.

    Raises:
      ValueError: the shapes disagree, there is no image or a label has no class.
    """
    weights = np.ones((1, len(labels)))
    columns = _weighted_metrics(probabilities, labels, weights, class_names, threshold)
    return {name: float(column[0]) for name, column in columns.items()}


def classification_resamples(
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    threshold: float = 0.5,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, np.ndarray]:
    """Each of the `classification_metrics` [R] over N images drawn with replacement, R times.

    All metrics see the same resampled images. A resample without two classes has no AUROC and no
    average precision, NaN; `percentile_interval` leaves those out.
    """
    weights = _resampled_weights(len(labels), seed, resamples)
    return _weighted_metrics(probabilities, labels, weights, class_names, threshold)


def best_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The threshold on the probability of class 1 with the highest accuracy.

    Meant for the validation set, whose mix of classes it takes over. The candidates are the
    middles between neighbouring scores, one below all (0) and one above all (just over 1); of
    equally good ones the closest to 0.5.

    Args:
      probabilities: `[N, 2]` in [0, 1].
      labels: 0 or 1, `[N]`.

    Raises:
      ValueError: the shapes disagree, there is no image or a label has no class.
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
    largest = classes - 1 if labels.ndim == 1 else 1
    if labels.min() < 0 or labels.max() > largest:
        raise ValueError(
            f"labels reach from {labels.min()} to {labels.max()}, expected 0 to {largest}: "
            "leave unlabelled images out"
        )
    return probabilities, labels


def _resampled_weights(count: int, seed: int, resamples: int) -> np.ndarray:
    """How often each image is in each resample, `[R, N]`."""
    drawn = np.random.default_rng(seed).integers(0, count, (resamples, count))
    drawn += count * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * count)
    return counts.reshape(resamples, count).astype(np.float64)


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """The 2.5th and the 97.5th percentile of resampled values; NaN ones are left out."""
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return np.nan, np.nan
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def _weighted_metrics(
    probabilities: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    class_names: Sequence[str],
    threshold: float,
) -> dict[str, np.ndarray]:
    """The metrics of R sets at once, `[R]` each; row r counts image n `weights[r, n]` times."""
    classes = len(class_names)
    probabilities, labels = check_classification(probabilities, labels, classes)
    if labels.ndim == 2:
        return _independent_metrics(probabilities, labels, weights, class_names, threshold)
    predicted = predicted_classes(probabilities, threshold)
    cells = np.eye(classes * classes)[labels * classes + predicted]
    confusion = (weights @ cells).reshape(-1, classes, classes)
    present, guessed = confusion.sum(2), confusion.sum(1)
    right = np.diagonal(confusion, axis1=1, axis2=2)
    metrics = {
        "accuracy": right.sum(1) / weights.sum(1),
        "balanced_accuracy": _mean_of_defined(_ratio(right, present)),
    }
    f1 = 2 * right / np.maximum(present + guessed, 1)
    metrics.update({f"f1_{name}": f1[:, k] for k, name in enumerate(class_names)})
    positives = (1,) if classes == 2 else range(classes)
    ranked = [_ranking(probabilities[:, k], labels == k, weights) for k in positives]
    aurocs, precisions = zip(*ranked, strict=True)
    metrics["auroc"] = _mean_of_defined(np.stack(aurocs, 1))
    metrics["average_precision"] = _mean_of_defined(np.stack(precisions, 1))
    metrics["ece"] = _calibration_error(probabilities, labels, weights)
    return metrics


def _independent_metrics(
    probabilities: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    class_names: Sequence[str],
    threshold: float,
) -> dict[str, np.ndarray]:
    """Of classes that are each there or not: the means over them, and F1 and AUROC of each."""
    each = {}
    for k, name in enumerate(class_names):
        pair = np.stack([1 - probabilities[:, k], probabilities[:, k]], axis=1)
        each[name] = _weighted_metrics(pair, labels[:, k], weights, ("", name), threshold)
    together = lambda metric: _mean_of_defined(np.stack([m[metric] for m in each.values()], 1))
    return {
        **{metric: together(metric) for metric in ("accuracy", "balanced_accuracy")},
        **{f"f1_{name}": found[f"f1_{name}"] for name, found in each.items()},
        **{metric: together(metric) for metric in ("auroc", "average_precision", "ece")},
        **{f"auroc_{name}": found["auroc"] for name, found in each.items()},
    }


def of_class(labels: np.ndarray, index: int) -> np.ndarray:
    """bool [N]: which images are of a class, by labels [N], or [N,K] of independent classes."""
    return labels[:, index] > 0 if labels.ndim == 2 else labels == index


def share_right(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float [N]: 1 where the class is right at .5, else 0; the share of independent classes."""
    if labels.ndim == 2:
        return ((probabilities >= 0.5) == (labels > 0)).mean(axis=1)
    return (predicted_classes(probabilities) == labels).astype(float)


def predicted_classes(probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Classes [N] of probabilities [N,K], as in `classification_metrics`."""
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] >= threshold).astype(int)
    return probabilities.argmax(1)


def roc_curve(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The receiver operating characteristic, from (0, 0) to (1, 1).

    Args:
      scores: `[N]`, high for positive.
      positive: bool `[N]`.

    Returns:
      False and true positive rate `[T + 1]` at each of the T different scores, the highest first;
      zeros where there is no negative, or no positive.
    """
    values, place = np.unique(-scores, return_inverse=True)
    rates = []
    for counted in (~positive, positive):
        counts = np.bincount(place, weights=counted, minlength=len(values))
        rates.append(np.concatenate([[0.0], counts.cumsum() / max(counted.sum(), 1)]))
    return rates[0], rates[1]


def reliability_curve(
    probability: np.ndarray, positive: np.ndarray, *, bins: int = 10, fewest: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """How often an event happens, against its probability.

    Args:
      probability: `[N]` in [0, 1].
      positive: bool `[N]`, whether it happened.
      bins: of equal width; those with less than `fewest` images are left out.
      fewest: images of a bin.

    Returns:
      Mean probability and share of the positive in each bin.
    """
    place = np.minimum((probability * bins).astype(int), bins - 1)
    used = [place == b for b in range(bins) if (place == b).sum() >= fewest]
    return (
        np.array([probability[chosen].mean() for chosen in used]),
        np.array([positive[chosen].mean() for chosen in used]),
    )


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """A quotient that is NaN where the denominator is 0."""
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), np.nan)


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """The mean of each row over what is not NaN; NaN where nothing is left."""
    return _ratio(np.nansum(values, 1), (~np.isnan(values)).sum(1))


def _ranking(
    scores: np.ndarray, positive: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and average precision of R sets; NaN for a set without positives or negatives."""
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
    return np.abs(gaps).sum(1) / weights.sum(1)
