"""How sure a reported number is: means over images, and intervals by the bootstrap."""

from typing import Any

import numpy as np


def summarize(values: np.ndarray) -> dict[str, Any]:
    """`mean`, `std` (of the population), `ci95` of the mean and `n` of one value per image.

    Images without a value, NaN, are left out; where no image has one, all but `n` is NaN.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return {"mean": np.nan, "std": np.nan, "ci95": (np.nan, np.nan), "n": 0}
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "ci95": percentile_interval(mean_resamples(values)),
        "n": len(values),
    }


def mean_resamples(values: np.ndarray, *, seed: int = 0, resamples: int = 1000) -> np.ndarray:
    """Means [R] of `values` [N] over N images drawn with replacement (Efron 1979)."""
    weights = resampled_counts(len(values), seed=seed, resamples=resamples)
    return weights @ np.asarray(values, np.float64) / len(values)


def resampled_counts(count: int, *, seed: int = 0, resamples: int = 1000) -> np.ndarray:
    """How often each of N images is in each of R resamples, float64 [R,N]."""
    drawn = np.random.default_rng(seed).integers(0, count, (resamples, count))
    drawn += count * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * count)
    return counts.reshape(resamples, count).astype(np.float64)


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """The 2.5th and the 97.5th percentile of resampled values; NaN ones are left out."""
    values = values[~np.isnan(values)]
    if not len(values):
        return np.nan, np.nan
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
