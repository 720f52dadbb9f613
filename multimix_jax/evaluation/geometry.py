"""Signed distance maps, on the device; surfaces and the distances between them, on the host."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage


@functools.partial(jax.vmap, in_axes=0)  # over images
@functools.partial(jax.vmap, in_axes=-1, out_axes=-1)  # over channels
def signed_distance(mask: jax.Array) -> jax.Array:
    """How far each pixel is from a mask's boundary: negative inside, positive outside.

    Distances from inside to the nearest pixel outside, and from outside to the nearest inside, are
    each divided by their greatest; on the boundary, the pixels of the mask with a neighbour outside
    it across an edge (2D) or a face (3D), the map is 0 (Xue et al. 2020; Zhang & Zhang 2021,
    section 2.1). An empty mask is 1 everywhere, one that fills the image -1.

    Args:
      mask: [B,(D,)H,W,C], nonzero inside; each channel by itself.

    Returns:
      float32 of the same shape in [-1, 1].
    """
    inside = mask != 0
    depth, away = _distance_to(~inside), _distance_to(inside)
    # Without anything to be near to, a distance is infinite.
    share = lambda d: jnp.where(jnp.isinf(d), 1.0, d / jnp.maximum(d.max(), 1.0))
    signed = jnp.where(inside, -share(depth), share(away))
    return jnp.where(depth == 1.0, 0.0, signed)


def _distance_to(there: jax.Array) -> jax.Array:
    """Euclidean distance of every pixel to the nearest one that is `there`, infinite if none is.

    Exact, axis by axis (Felzenszwalb & Huttenlocher 2012, equation 2), by a scan over each line.
    """
    squared = jnp.where(there, 0.0, jnp.inf)
    for axis in range(there.ndim):
        squared = jnp.moveaxis(_nearest_of_lines(jnp.moveaxis(squared, axis, 0)), 0, axis)
    return jnp.sqrt(squared)


def _nearest_of_lines(values: jax.Array) -> jax.Array:
    """min over j of values[j] + (i - j)^2, for each i along the first axis."""
    places = jnp.arange(len(values), dtype=jnp.float32)
    along = places.reshape(-1, *[1] * (values.ndim - 1))

    def nearer(best: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        place, there = at
        return jnp.minimum(best, there[None] + jnp.square(along - place)), None

    return jax.lax.scan(nearer, jnp.full_like(values, jnp.inf), (places, values))[0]


def surface(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask with a neighbour outside it, sharing an edge (2D) or a face (3D).

    Args:
      mask: bool, any shape. Beyond the image all is outside.

    Returns:
      bool of the same shape.

    Raises:
      ValueError: the mask is not bool.
    """
    if mask.dtype != np.bool_:
        raise ValueError(f"mask is {mask.dtype}, expected bool: compare it with a threshold first")
    return mask & ~ndimage.binary_erosion(mask)


def surface_distances(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """For each surface pixel of one mask, how far the nearest surface pixel of the other is.

    Args:
      prediction: bool, any shape, not empty.
      truth: bool of the same shape, not empty.
      spacing: distance between neighbours along each axis; without it the unit is the pixel.

    Returns:
      Distances from the prediction to the truth, and from the truth to the prediction: two
      float64 vectors with one number per surface pixel, in the unit of the spacing.

    Raises:
      ValueError: the shapes differ, a mask is empty or not bool, or the spacing is not positive
        with one number per axis.
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


def largest_components(mask: np.ndarray, count: int) -> np.ndarray:
    """The largest connected parts of each channel of a mask; pixels touch by edges or faces.

    Args:
      mask: bool [(D,)H,W,C].
      count: how many; 0 leaves the mask as it is; of parts of one size the first counts as larger.

    Returns:
      bool of the same shape.
    """
    if not count:
        return mask
    kept = np.zeros_like(mask)
    for channel in range(mask.shape[-1]):
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
