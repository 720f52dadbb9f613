"""Surfaces of masks, the distances between them, and connected components; on the host."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def surface(mask: np.ndarray) -> np.ndarray:
    """The pixels of a bool mask with a neighbour outside it, sharing an edge (2D) or a face (3D).

    Beyond the image all is outside. Raises ValueError for a mask that is not bool.
    """
    if mask.dtype != np.bool_:
        raise ValueError(f"mask is {mask.dtype}, expected bool: compare it with a threshold first")
    return mask & ~ndimage.binary_erosion(mask)


def surface_distances(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """How far each surface pixel of one mask is from the nearest of the other, and the reverse.

    Takes bool masks of one shape, neither of them empty, and the spacing along each axis (without
    it the unit is the pixel). Gives two float64 vectors, in the unit of the spacing. Raises
    ValueError for other masks, and for a spacing that is not a positive number per axis.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction is {prediction.shape}, but truth is {truth.shape}")
    if not (prediction.any() and truth.any()):
        raise ValueError("an empty mask has no surface: handle empty masks before")
    if spacing is not None and (len(spacing) != truth.ndim or min(spacing) <= 0):
        raise ValueError(f"spacing is {spacing}, expected {truth.ndim} positive numbers")
    # All surfaces lie in the box around both masks, and nothing just outside it is in a mask.
    (box,) = ndimage.find_objects((prediction | truth).astype(np.uint8))
    ours, theirs = surface(prediction[box]), surface(truth[box])
    to_ours = ndimage.distance_transform_edt(~ours, sampling=spacing)
    to_theirs = ndimage.distance_transform_edt(~theirs, sampling=spacing)
    return to_theirs[ours], to_ours[theirs]


def largest_components(mask: np.ndarray, counts: int | Sequence[int]) -> np.ndarray:
    """The largest connected parts of each channel of a bool mask [(D,)H,W,C], as many of all or of
    each.

    Pixels touch by edges or faces. Of parts of one size the first counts as larger; a count of 0
    leaves the mask as it is.
    """
    kept = mask.copy()
    for channel, count in enumerate(np.broadcast_to(counts, mask.shape[-1]).tolist()):
        if not count:
            continue
        parts, _ = ndimage.label(mask[..., channel])
        sizes = np.bincount(parts.ravel())[1:]
        kept[..., channel] = np.isin(parts, 1 + np.argsort(-sizes, kind="stable")[:count])
    return kept


def stretch(values: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    """[*any, C] -> [*sides, C] by the nearest value along each axis."""
    for axis, side in enumerate(sides):
        if values.shape[axis] != side:
            values = values.take(np.arange(side) * values.shape[axis] // side, axis=axis)
    return values
