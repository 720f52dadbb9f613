"""A random pose for one image and its mask: where the patient could have stood as well.

Images are `[H, W, C]`, uint8 or float in 0..255; a batch is a vmap, one key each.
"""

import math

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
class Pose:
    """Where each pixel of a view is taken from.

    Attributes:
      rows, columns: float32 [H,W], in pixels of the image.
      black: bool [], whether what lies outside of the image is black; else its border goes on.
    """

    rows: jax.Array
    columns: jax.Array
    black: jax.Array


def draw_pose(key: jax.Array, height: int, width: int, strength: float = 1.0) -> Pose:
    """Rotation, scale, aspect, shift, shear, a slight elastic field and a mirror image.

    Up to +-20 degrees, a factor of exp(+-.3), a ratio of the axes of exp(+-.15), .15 of half a side
    along each axis, a shear of .1, all uniform, and a smooth field of .02 of half a side; mirrored
    left to right with probability 1/2. Outside is black with probability 1/2.

    Args:
      key: a PRNG key.
      height, width: sides of the image in pixels; where they differ, it is turned as if it were
        stretched to a square.
      strength: factor of all of these but the mirror; 0 leaves that alone.
    """
    pose_key, elastic_key, coin_key = jax.random.split(key, 3)
    drawn = strength * jax.random.uniform(pose_key, (6,), minval=-1.0)
    angle, log_scale, aspect, shear, *shift = drawn
    mirrored, black = jax.random.bernoulli(coin_key, shape=(2,))

    angle *= math.radians(DEGREES)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    stretch = jnp.exp(LOG_SCALE * log_scale + ASPECT / 2 * aspect * jnp.asarray([1.0, -1.0]))
    rotation = jnp.asarray([[cosine, -sine], [sine, cosine]])
    sheared = rotation @ jnp.asarray([[1.0, 0.0], [SHEAR * shear, 1.0]])
    matrix = stretch[:, None] * sheared
    matrix = matrix.at[:, 1].multiply(jnp.where(mirrored, -1.0, 1.0))

    # Rows and columns from -1 to 1, at the centres of pixels.
    axes = [(2 * jnp.arange(side) + 1) / side - 1 for side in (height, width)]
    points = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)
    knots = strength * ELASTIC * jax.random.normal(elastic_key, (KNOTS, KNOTS, 2))
    field = jax.image.resize(knots, (height, width, 2), "cubic")
    points = jnp.einsum("hwj,ij->hwi", points, matrix) + field
    row_shift, column_shift = shift
    rows = (points[..., 0] + SHIFT * row_shift + 1) / 2 * height - 0.5
    columns = (points[..., 1] + SHIFT * column_shift + 1) / 2 * width - 0.5
    return Pose(rows, columns, black)


def apply_pose(pose: Pose, image: jax.Array) -> jax.Array:
    """The image, or a mask, in that pose: bilinear, float32 [H,W,C].

    Args:
      pose: one pose.
      image: [H,W,C] of the sides that the pose was drawn for.

    Raises:
      ValueError: the sides are others.
    """
    height, width, channels = image.shape
    if pose.rows.shape != (height, width):
        raise ValueError(f"the pose is for images of {pose.rows.shape}, the image is {image.shape}")
    # A margin, so that what is outside fades in within a pixel, and nothing is asked for by `if`.
    edge = jnp.pad(image.astype(jnp.float32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    inside = jnp.pad(jnp.ones((height, width, 1), bool), ((1, 1), (1, 1), (0, 0)))
    padded = jnp.where(inside | ~pose.black, edge, 0.0).reshape(-1, channels)
    row = (pose.rows + 1).clip(0, height + 1)
    column = (pose.columns + 1).clip(0, width + 1)
    top, left = (jnp.floor(x).astype(jnp.int32) for x in (row, column))
    top, left = top.clip(0, height), left.clip(0, width)
    down, right = (row - top)[..., None], (column - left)[..., None]
    at = top * (width + 2) + left
    upper = padded[at] * (1 - right) + padded[at + 1] * right
    lower = padded[at + width + 2] * (1 - right) + padded[at + width + 3] * right
    return upper * (1 - down) + lower * down
