"""The published weak and strong view of one image; a batch is a vmap, one key each.

Images are uint8 `[H, W, C]` in 0..255, with C of 1 (grey) or 3 (RGB); others raise ValueError. All
arithmetic is on integers, so a key gives the same pixels on every device, and what PIL gives.
"""

import functools
import math

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

# The point-wise operations come first: they share one table per channel.
POINTWISE = (
    "identity",
    "autocontrast",
    "brightness",
    "contrast",
    "equalize",
    "posterize",
    "solarize",
)
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
OPERATIONS = (*POINTWISE, "sharpness", *GEOMETRIC)
MAGNITUDES = 9  # Drawn from 1..9; the published lists count to 10 and leave the last out.

_IDENTITY = OPERATIONS.index("identity")
_SHARPNESS = OPERATIONS.index("sharpness")
_STAGES = 2  # Operations per strong view.
_ONE = 1 << 16  # PIL's fixed point for coordinates.
_LUMA = (19595, 38470, 7471)  # PIL's weights of red, green and blue, in 1/65536.


def weak(key: jax.Array, image: jax.Array, *, flips: bool = True) -> jax.Array:
    """A horizontal flip with probability 1/2, or never, then a crop after reflecting 1/8 of each
    side."""
    _check(image)
    height, width, _ = image.shape
    flip_key, crop_key = jax.random.split(key)
    if flips:
        image = dm_pix.random_flip_left_right(flip_key, image)
    vertical, horizontal = height // 8, width // 8
    padding = ((vertical, vertical), (horizontal, horizontal), (0, 0))
    padded = jnp.pad(image, padding, mode="reflect")
    # The numbers of dm_pix.random_crop, drawn together: each draw takes long to compile.
    keys = jax.random.split(crop_key, image.ndim)[:2]
    room = jnp.asarray([2 * vertical + 1, 2 * horizontal + 1])
    start = jax.vmap(lambda key, end: jax.random.randint(key, (), 0, end))(keys, room)
    return jax.lax.dynamic_slice(padded, (*start, 0), image.shape)


def strong(key: jax.Array, image: jax.Array, *, flips: bool = True) -> jax.Array:
    """Its own `weak` view, then two operations, each applied with probability 1/2.

    The list, the magnitudes and the probabilities are those of MultiMix (Haque et al. 2021),
    after RandAugment as FixMatch (Sohn et al. 2020) uses it. What is moved in is black.
    """
    view_key, *stage_keys = jax.random.split(key, 1 + _STAGES)
    image = weak(view_key, image, flips=flips)
    for stage_key in stage_keys:
        image = apply_operation(image, *draw_operation(stage_key))
    return image


def weak_is_mirrored(key: jax.Array) -> jax.Array:
    """Whether the `weak` view of this key is a mirror image, bool []."""
    return jax.random.bernoulli(jax.random.split(key)[0])


def strong_is_mirrored(key: jax.Array) -> jax.Array:
    """Whether the `strong` view of this key is a mirror image, bool []."""
    return weak_is_mirrored(jax.random.split(key, 1 + _STAGES)[0])


def draw_operation(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One operation at random, with probability 1/2 the identity instead, as int32 scalars:
    index into `OPERATIONS`, magnitude in 1..9 and sign (-1 or 1)."""
    low = jnp.asarray([0, 1, 0, 0])
    high = jnp.asarray([len(OPERATIONS), MAGNITUDES + 1, 2, 2])  # Exclusive.
    index, magnitude, right, applied = jax.random.randint(key, (4,), low, high)
    return jnp.where(applied, index, _IDENTITY), magnitude, 2 * right - 1


def apply_operation(
    image: jax.Array, index: jax.Array, magnitude: jax.Array, sign: jax.Array
) -> jax.Array:
    """The operation `OPERATIONS[index]` at magnitude v in 1..9, as PIL computes it.

    Factor of brightness, contrast and sharpness: .9v/10 + .05; bits kept by posterize: 4 + 4v/10;
    threshold of solarize: 256 - 25.6v; rotation: sign * 30v/10 degrees, counter-clockwise; shear:
    sign * .3v/10 about the upper left corner; shift: the image moves left or up by sign * .3v/10
    of its side. Nearest neighbour, black outside. Two results may be one grey value above PIL's,
    which rounds in binary where the exact quotient is whole: autocontrast, and a factor of .59.
    """
    _check(image)
    height, width, _ = image.shape
    # Under vmap a switch would compute every branch for every image. One table, one blend and one
    # warp, each the identity when it is not their turn, cost the same for any operation.
    # The barrier keeps XLA from computing the stage before once more for each pixel of the blend.
    image = jax.lax.optimization_barrier(image)
    image = jnp.where(index == _SHARPNESS, _sharpen(image, magnitude), image)
    image = _point(image, index, magnitude)
    warps = jnp.asarray(_warps(height, width))
    return _warp(image, warps[index, magnitude - 1, (1 + sign) // 2])


def _check(image: jax.Array) -> None:
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or image.dtype != jnp.uint8:
        raise ValueError(
            f"image is {image.dtype} of shape {image.shape}, expected uint8 [H, W, 1] or "
            "[H, W, 3]: augment before normalising, and vmap over the batch"
        )


def _blend(dark: jax.Array, image: jax.Array, magnitude: jax.Array) -> jax.Array:
    """dark + factor * (image - dark), rounded down, with the factor in whole percent."""
    percent = 9 * magnitude + 5
    # Neither term is negative, so the truncating division rounds down.
    return jax.lax.div((100 - percent) * dark + percent * image, jnp.int32(100))


def _point(image: jax.Array, index: jax.Array, magnitude: jax.Array) -> jax.Array:
    """One 256-entry table per channel, chosen by the index, and one lookup."""
    height, width, channels = image.shape
    planes = jnp.moveaxis(image, -1, 0).reshape(channels, height * width)
    # How often each grey value occurs; on CPU much faster than one-hot sums.
    histograms = jax.vmap(lambda plane: jnp.zeros(256, jnp.int32).at[plane].add(1))(planes)
    mean = _mean(planes, histograms)
    row = jnp.where(index < len(POINTWISE), index, _IDENTITY)
    tables = jax.vmap(_tables, in_axes=(0, None, None))(histograms, mean, magnitude)[:, row]
    planes = jax.vmap(lambda table, plane: table[plane])(tables, planes)
    return jnp.moveaxis(planes.reshape(channels, height, width), 0, -1)


def _mean(planes: jax.Array, histograms: jax.Array) -> jax.Array:
    """The mean grey value of planes `[C, P]`, rounded half up."""
    count = planes.shape[1]
    if len(planes) == 1:
        total = histograms[0] @ jnp.arange(256)
    else:
        red, green, blue = planes.astype(jnp.int32)
        gray = (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue + _ONE // 2) >> 16
        total = gray.sum()
    return (2 * total + count) // (2 * count)


def _tables(histogram: jax.Array, mean: jax.Array, magnitude: jax.Array) -> jax.Array:
    """The table of each point-wise operation, `[7, 256]` uint8, in the order of `POINTWISE`."""
    gray = jnp.arange(256)
    present = histogram > 0
    low, high = present.argmax(), 255 - present[::-1].argmax()
    stretched = ((gray - low) * 255 // jnp.maximum(high - low, 1)).clip(0, 255)
    below = histogram.cumsum() - histogram
    step = (histogram.sum() - histogram[high]) // 255
    equalized = ((step // 2 + below) // jnp.maximum(step, 1)).clip(0, 255)
    shift = 4 - 4 * magnitude // 10
    tables = (
        gray,
        jnp.where(high > low, stretched, gray),
        _blend(jnp.zeros_like(gray), gray, magnitude),
        _blend(jnp.full_like(gray, mean), gray, magnitude),
        jnp.where(step > 0, equalized, gray),
        gray >> shift << shift,
        jnp.where(gray < 256 - 256 * magnitude // 10, gray, 255 - gray),
    )
    return jnp.stack(tables).astype(jnp.uint8)


def _sharpen(image: jax.Array, magnitude: jax.Array) -> jax.Array:
    """A blend with the image smoothed by PIL's SMOOTH: ones, a 5 in the middle, over 13."""
    image = image.astype(jnp.int32)
    rows = image[:-2] + image[1:-1] + image[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * image[1:-1, 1:-1]
    smooth = jax.lax.div(2 * total + 13, jnp.int32(26))  # Rounded; 13 is odd, so no ties.
    smooth = image.at[1:-1, 1:-1].set(smooth)  # PIL copies the outermost pixels.
    return _blend(smooth, image, magnitude).astype(jnp.uint8)


@functools.cache
def _warps(height: int, width: int) -> np.ndarray:
    """Where each operation takes its pixels from, in PIL's fixed point.

    int32 `[operations, magnitudes, signs, 2, 3]`: with output column i and row j, the source column
    is (a i + b j + c) >> 16 with (a, b, c) the first row, the source row by the second.
    """
    identity = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    matrices = np.empty((len(OPERATIONS), MAGNITUDES, 2, 2, 3))
    matrices[...] = identity
    for level in range(MAGNITUDES):
        for side, sign in enumerate((-1, 1)):
            amount = sign * 0.3 * (level + 1) / 10
            geometric = {
                "rotate": _rotation(100 * amount, height, width),
                "shear_x": ((1.0, amount, 0.0), identity[1]),
                "shear_y": (identity[0], (amount, 1.0, 0.0)),
                "translate_x": ((1.0, 0.0, amount * width), identity[1]),
                "translate_y": (identity[0], (0.0, 1.0, amount * height)),
            }
            for name, matrix in geometric.items():
                matrices[OPERATIONS.index(name), level, side] = matrix
    matrices[..., 2] += (matrices[..., 0] + matrices[..., 1]) / 2  # Centres of pixels.
    return np.floor(matrices * _ONE + 0.5).astype(np.int32)


def _rotation(degrees: float, height: int, width: int) -> tuple[tuple[float, ...], ...]:
    """The inverse of a counter-clockwise rotation about the middle of the image."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return (cosine, -sine, x - cosine * x + sine * y), (sine, cosine, y - sine * x - cosine * y)


def _warp(image: jax.Array, matrix: jax.Array) -> jax.Array:
    """Nearest neighbour through a fixed-point matrix `[2, 3]`; black where it leaves the image."""
    height, width, channels = image.shape
    column, row = jnp.arange(width)[None], jnp.arange(height)[:, None]
    x, y = ((a * column + b * row + c) >> 16 for a, b, c in matrix)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    source = jnp.where(inside, y * width + x, 0)
    moved = image.reshape(height * width, channels)[source]
    return jnp.where(inside[..., None], moved, 0)
