"""Intensity augmentation of one image, as another machine, exposure or film would change it.

Images are float `[H, W, C]` in 0..255, and stay in it; no pixel moves, so a mask stays valid.
"""

import functools

import jax
import jax.numpy as jnp

KNOTS = 6  # of the intensity curve
LOG_GAMMA = 0.5
LOG_CONTRAST = 0.4
BRIGHTNESS = 0.15
EXPOSURE = 0.12  # standard deviation at the knots of the field
EXPOSURE_KNOTS = 3
SHARPNESS = (-1.0, 1.5)  # -1 is a blur
NOISE = 0.05  # greatest standard deviation
CUTOUT = 0.4  # greatest side of the box, of the image's


def augment_intensity(key: jax.Array, image: jax.Array) -> jax.Array:
    """Monotone curve, gamma, contrast and brightness, exposure field, blur or sharpening, noise.

    Each with probability 1/2 and a strength of its own, on intensities of 0 to 1: a piecewise
    linear curve that never falls; gamma exp(+-.5); contrast exp(+-.4) about the middle with
    brightness +-.15; a smooth field of standard deviation .12, added; from a blur to 1.5 times
    sharpened; white noise of a standard deviation up to .05. The result is float32.
    """
    x = image.astype(jnp.float32) / 255
    changes = (_curve, _gamma, _contrast, _exposure, _sharpen, _noise)
    # All at once, since each draw takes long to compile.
    split = lambda index: jax.random.split(jax.random.fold_in(key, index))
    coins, keys = jax.vmap(split, out_axes=1)(jnp.arange(len(changes)))
    for change, applied, own in zip(changes, jax.vmap(jax.random.bernoulli)(coins), keys):
        x = jnp.where(applied, change(own, x), x).clip(0, 1)
    return 255 * x


def cutout(key: jax.Array, image: jax.Array) -> jax.Array:
    """A grey box of up to .4 of the image's sides, with probability 1/2 (DeVries & Taylor 2017)."""
    coin, size_key, place_key = jax.random.split(key, 3)
    half = CUTOUT / 2 * jax.random.uniform(size_key, (2,))
    middle = jax.random.uniform(place_key, (2,))
    rows, columns = (
        jnp.abs((jnp.arange(side) + 0.5) / side - middle[axis]) < half[axis]
        for axis, side in enumerate(image.shape[:2])
    )
    box = (rows[:, None] & columns[None])[..., None]
    return jnp.where(jax.random.bernoulli(coin) & box, 127.5, image)


def _curve(key: jax.Array, x: jax.Array) -> jax.Array:
    rises = jax.random.exponential(key, (KNOTS - 1,))
    heights = jnp.concatenate([jnp.zeros(1), jnp.cumsum(rises / rises.sum())])
    return jnp.interp(x, jnp.linspace(0, 1, KNOTS), heights)


def _gamma(key: jax.Array, x: jax.Array) -> jax.Array:
    return x ** jnp.exp(_uniform(key, LOG_GAMMA))


def _contrast(key: jax.Array, x: jax.Array) -> jax.Array:
    one, other = jax.random.split(key)
    return (x - 0.5) * jnp.exp(_uniform(one, LOG_CONTRAST)) + 0.5 + _uniform(other, BRIGHTNESS)


def _exposure(key: jax.Array, x: jax.Array) -> jax.Array:
    knots = EXPOSURE * jax.random.normal(key, (EXPOSURE_KNOTS, EXPOSURE_KNOTS, 1))
    return x + jax.image.resize(knots, (*x.shape[:2], 1), "cubic")


def _sharpen(key: jax.Array, x: jax.Array) -> jax.Array:
    low, high = SHARPNESS
    amount = jax.random.uniform(key, minval=low, maxval=high)
    return x + amount * (x - _smooth(_smooth(x, 0), 1))


def _smooth(x: jax.Array, axis: int) -> jax.Array:
    """[1, 2, 1] / 4 along an axis, the border going on."""
    padding = [(1, 1) if axis == i else (0, 0) for i in range(x.ndim)]
    padded = jnp.pad(x, padding, mode="edge")
    at = functools.partial(jax.lax.slice_in_dim, padded, axis=axis)
    count = x.shape[axis]
    return (at(0, count) + 2 * x + at(2, count + 2)) / 4


def _noise(key: jax.Array, x: jax.Array) -> jax.Array:
    one, other = jax.random.split(key)
    return x + NOISE * jax.random.uniform(one) * jax.random.normal(other, x.shape)


def _uniform(key: jax.Array, bound: float) -> jax.Array:
    return jax.random.uniform(key, minval=-bound, maxval=bound)
