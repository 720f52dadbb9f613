"""How well a mask agrees with the truth, image by image."""

from collections.abc import Sequence

import numpy as np
from skimage.metrics import structural_similarity

from multimix_jax.evaluation import geometry

_SSIM_WINDOW = 7


def segmentation_metrics(
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    spacing: Sequence[float] | None = None,
    void: np.ndarray | None = None,
) -> dict[str, float]:
    """Overlap and distance between two masks of one image.

    With the counts TP, FP, FN of pixels: dice = 2TP / (2TP + FP + FN), jaccard = TP / (TP + FP +
    FN), precision = TP / (TP + FP), recall = TP / (TP + FN), all in [0, 1]. ssim compares the
    masks as images of range 1 (Wang et al. 2004) in uniform windows of 7 pixels a side, in
    [-1, 1]. From the distances of either surface to the other, in pixels: hd, the greatest
    (Hausdorff); hd95, the greater of the two 95th percentiles; assd, the mean over both surfaces
    together; ahd, the greater of the two means (average Hausdorff); and hd_mm, hd95_mm, assd_mm
    and ahd_mm where the spacing is known. Both masks empty: overlaps 1, distances 0. One empty:
    overlaps 0, distances the diagonal of the image.

    Args:
      prediction, truth: bool `[H, W]` or `[D, H, W]`, at least 7 pixels a side.
      spacing: mm between neighbours along each axis; zeros mean that it is unknown.
      void: bool, as the masks: pixels that count as outside of either.

    Raises:
      ValueError: the masks are not bool, differ in shape or are too small, or the spacing has not
        one number per axis.
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
    if void is not None:
        prediction, truth = prediction & ~void, truth & ~void
    both, ours, theirs = (int(mask.sum()) for mask in (prediction & truth, prediction, truth))
    if ours + theirs == 0:
        metrics = dict.fromkeys(("dice", "jaccard", "precision", "recall"), 1.0)
    else:
        metrics = {
            "dice": 2 * both / (ours + theirs),
            "jaccard": both / (ours + theirs - both),
            "precision": both / max(ours, 1),
            "recall": both / max(theirs, 1),
        }
    images = (mask.astype(np.float64) for mask in (prediction, truth))
    ssim = structural_similarity(*images, data_range=1.0, win_size=_SSIM_WINDOW)
    metrics |= {"ssim": float(ssim), **_distances(prediction, truth, None)}
    if spacing is not None and all(side > 0 for side in spacing):
        if len(spacing) != truth.ndim:
            raise ValueError(f"spacing is {spacing}, expected {truth.ndim} numbers")
        in_mm = _distances(prediction, truth, spacing)
        metrics |= {f"{name}_mm": value for name, value in in_mm.items()}
    return metrics


def _distances(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None
) -> dict[str, float]:
    ours, theirs = prediction.any(), truth.any()
    if not (ours and theirs):
        sides = np.asarray(truth.shape) * (1.0 if spacing is None else np.asarray(spacing))
        diagonal = float(np.linalg.norm(sides)) if ours or theirs else 0.0
        return dict.fromkeys(("hd", "hd95", "assd", "ahd"), diagonal)
    directed = geometry.surface_distances(prediction, truth, spacing)
    return {
        "hd": float(max(distances.max() for distances in directed)),
        "hd95": float(max(np.percentile(distances, 95) for distances in directed)),
        "assd": float(np.concatenate(directed).mean()),
        "ahd": float(max(distances.mean() for distances in directed)),
    }
