"""How sure a reported number is: means over images, and intervals by the bootstrap."""

from collections.abc import Mapping
from typing import TypedDict

import numpy as np


class MetricSummary(TypedDict):
    """One metric over images: mean, standard deviation, 95 % interval of the mean, count."""

    mean: float
    std: float
    ci95: tuple[float, float]
    n: int


def summarize(per_image: Mapping[str, np.ndarray]) -> dict[str, MetricSummary]:
    """Mean, standard deviation over images (of the population), 95 % interval and count.

    Args:
      per_image: one vector per metric; NaN where an image has no value, such as a distance in mm
        without a spacing. Those are left out.

    Returns:
      For each metric `mean`, `std`, `ci95` (see `bootstrap_interval`) and `n`, the images that
      have a value; NaN where none has.
    """
    summary: dict[str, MetricSummary] = {}
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
    weights = resampled_counts(len(values), seed, resamples)
    return weights @ np.asarray(values, np.float64) / len(values)


def resampled_counts(count: int, seed: int, resamples: int) -> np.ndarray:
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
