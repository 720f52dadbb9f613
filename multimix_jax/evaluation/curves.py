"""Curves of probabilities against the truth: receiver operating characteristic, reliability."""

import numpy as np


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
