"""Spatial augmentation of one image together with its mask; a batch is a vmap, one key each."""

import math
import types
from collections.abc import Mapping, Sequence

import flax
import jax
import jax.numpy as jnp

DEGREES = 20.0  # rotation, to either side
LOG_SCALE = 0.3
ASPECT = 0.15  # log of the ratio of the axes
SHIFT = 0.15  # of half a side
SHEAR = 0.1
ELASTIC = 0.02  # of half a side, standard deviation at the knots
KNOTS = 5  # of the elastic field, along each axis


@flax.struct.dataclass
class SpatialTransform:
    """Where each pixel of a view is taken from."""

    rows: jax.Array  # float32 [H,W], in pixels of the image
    columns: jax.Array
    black: jax.Array  # bool [], whether it is black outside of the image; else its border goes on
    mirrored: jax.Array | bool = False  # bool []


def draw_transform(
    key: jax.Array, height: int, width: int, strength: float = 1.0, *, flips: bool = True
) -> SpatialTransform:
    """Rotation, scale, aspect, shift, shear, a slight elastic field and a horizontal flip.

    Up to +-20 degrees, a factor of exp(+-.3), a ratio of the axes of exp(+-.15), .15 of half a side
    along each axis, a shear of .1, all uniform, and a smooth field of .02 of half a side; flipped
    left to right with probability 1/2, or never. Outside is black with probability 1/2. `strength`
    is a factor of all of these but the flip. An image that is not square is turned as if it were
    stretched to one.
    """
    affine_key, elastic_key, coin_key = jax.random.split(key, 3)
    drawn = strength * jax.random.uniform(affine_key, (6,), minval=-1.0)
    angle, log_scale, aspect, shear, *shift = drawn
    flipped, black = jax.random.bernoulli(coin_key, shape=(2,))
    flipped &= flips

    angle *= math.radians(DEGREES)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    stretch = jnp.exp(LOG_SCALE * log_scale + ASPECT / 2 * aspect * jnp.asarray([1.0, -1.0]))
    rotation = jnp.asarray([[cosine, -sine], [sine, cosine]])
    sheared = rotation @ jnp.asarray([[1.0, 0.0], [SHEAR * shear, 1.0]])
    matrix = stretch[:, None] * sheared
    matrix = matrix.at[:, 1].multiply(jnp.where(flipped, -1.0, 1.0))

    # Rows and columns from -1 to 1, at the centres of pixels.
    axes = [(2 * jnp.arange(side) + 1) / side - 1 for side in (height, width)]
    points = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)
    knots = strength * ELASTIC * jax.random.normal(elastic_key, (KNOTS, KNOTS, 2))
    field = jax.image.resize(knots, (height, width, 2), "cubic")
    points = jnp.einsum("hwj,ij->hwi", points, matrix) + field
    row_shift, column_shift = shift
    rows = (points[..., 0] + SHIFT * row_shift + 1) / 2 * height - 0.5
    columns = (points[..., 1] + SHIFT * column_shift + 1) / 2 * width - 0.5
    return SpatialTransform(rows, columns, black, flipped)


def apply_transform(
    transform: SpatialTransform, image: jax.Array, order: Sequence[int] = ()
) -> jax.Array:
    """The image, or its mask, [H,W,C] of uint8 or float, transformed: bilinear, float32.

    Where it is mirrored, the channels stand in `order`, see `reorder`.
    """
    height, width, channels = image.shape
    if transform.rows.shape != (height, width):
        raise ValueError(
            f"the transform is for images of {transform.rows.shape}, the image is {image.shape}"
        )
    # With a margin of one pixel, what is outside fades in within a pixel, and needs no branch.
    edge = jnp.pad(image.astype(jnp.float32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    inside = jnp.pad(jnp.ones((height, width, 1), bool), ((1, 1), (1, 1), (0, 0)))
    padded = jnp.where(inside | ~transform.black, edge, 0.0).reshape(-1, channels)
    row = (transform.rows + 1).clip(0, height + 1)
    column = (transform.columns + 1).clip(0, width + 1)
    top = jnp.floor(row).astype(jnp.int32).clip(0, height)
    left = jnp.floor(column).astype(jnp.int32).clip(0, width)
    down, right = (row - top)[..., None], (column - left)[..., None]
    at = top * (width + 2) + left
    upper = padded[at] * (1 - right) + padded[at + 1] * right
    lower = padded[at + width + 2] * (1 - right) + padded[at + width + 3] * right
    return reorder(upper * (1 - down) + lower * down, order, transform.mirrored)


def reorder(array: jax.Array, order: Sequence[int], where: jax.Array | bool = True) -> jax.Array:
    """Channels [...,C], or classes, in the order that they have in a mirror image, `where` it is
    one; an order of () leaves them as they are."""
    if not order:
        return array
    # Of slices, which every format of exported programs knows.
    return jnp.where(where, jnp.stack([array[..., place] for place in order], -1), array)


def random_crop(
    key: jax.Array, arrays: Mapping[str, jax.Array], extent: jax.Array, *, patch: Sequence[int]
) -> dict[str, jax.Array]:
    """The same random crop `[*patch, C]` of an image and its mask, `[*S, C]` of one shape S.

    Smaller ones are padded with zeros. `extent`, int `[len(S)]`, is the part of S that is not
    padding; crops lie in it where it is large enough, and begin at its first corner along axes
    where it is not.
    """
    last = jnp.maximum(extent - jnp.asarray(patch), 0)
    start = jax.random.randint(key, (len(patch),), 0, last + 1)

    def cut(array: jax.Array) -> jax.Array:
        missing = [(0, max(side - own, 0)) for side, own in zip(patch, array.shape)]
        padded = jnp.pad(array, [*missing, (0, 0)])
        return jax.lax.dynamic_slice(padded, (*start, 0), (*patch, array.shape[-1]))

    return {name: cut(array) for name, array in arrays.items()}


def random_rot90_flip(
    key: jax.Array,
    arrays: Mapping[str, jax.Array],
    *,
    flips: bool = True,
    orders: Mapping[str, Sequence[int]] = types.MappingProxyType({}),
) -> dict[str, jax.Array]:
    """The same random turn by a multiple of 90 degrees, and flip, of an image and its mask.

    In the plane of the first two axes, whose sides must be the same (ValueError); all eight results
    are equally likely (Zhang & Zhang 2021, section 3.1), or without `flips` the four turns. Where
    it is mirrored, the channels of an array stand in the order of its name in `orders`, see
    `reorder`.
    """
    sides = next(iter(arrays.values())).shape[:-1]
    if sides[0] != sides[1]:
        raise ValueError(f"images are {sides}, but the first two sides must be the same for turns")
    swap, first, second = jax.random.bernoulli(key, shape=(3,))
    if not flips:
        first = swap ^ second
    mirrored = swap ^ first ^ second

    def view(array: jax.Array) -> jax.Array:
        array = jnp.where(swap, jnp.swapaxes(array, 0, 1), array)
        for axis, flip in enumerate((first, second)):
            array = jnp.where(flip, jnp.flip(array, axis), array)
        return array

    return {
        name: reorder(view(array), orders.get(name, ()), mirrored) for name, array in arrays.items()
    }
