"""Signed distance maps of masks, computed on the device; SciPy's know the host alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage


def signed_distance_reference(mask: np.ndarray) -> np.ndarray:
    """What `signed_distance` computes of one channel of one image, by SciPy."""
    if mask.all() or not mask.any():
        return np.where(mask, -1.0, 1.0)
    depth, away = (ndimage.distance_transform_edt(side) for side in (mask, ~mask))
    signed = away / away.max() - depth / depth.max()
    return np.where(mask & ~ndimage.binary_erosion(mask, border_value=1), 0.0, signed)


@functools.partial(jax.vmap, in_axes=0)  # over images
@functools.partial(jax.vmap, in_axes=-1, out_axes=-1)  # over channels
def signed_distance(mask: jax.Array) -> jax.Array:
    """How far each pixel is from a mask's boundary: negative inside, positive outside.

    [B,(D,)H,W,C], nonzero inside, each channel by itself -> float32 of that shape in [-1, 1].
    Distances from inside to the nearest pixel outside, and from outside to the nearest inside, are
    each divided by their greatest; on the boundary, the pixels of the mask with a neighbour outside
    it across an edge (2D) or a face (3D), the map is 0 (Xue et al. 2020; Zhang & Zhang 2021,
    section 2.1). An empty mask is 1 everywhere, one that fills the image -1.
    """
    inside = mask != 0
    depth, away = _distance_to(~inside), _distance_to(inside)
    # Without anything to be near to, a distance is infinite.
    share = lambda d: jnp.where(jnp.isinf(d), 1.0, d / jnp.maximum(d.max(), 1.0))
    signed = jnp.where(inside, -share(depth), share(away))
    return jnp.where(depth == 1.0, 0.0, signed)


def _distance_to(there: jax.Array) -> jax.Array:
    """Euclidean distance of every pixel to the nearest one that is `there`, infinite if none is:
    exact, axis by axis (Felzenszwalb & Huttenlocher 2012, equation 2), by a scan over each line."""
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
