"""What a classifier looks at: maps of how its score depends on each pixel.

The plain gradient, which the bridge hands to the decoder, is `models.bridge.saliency_map`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from multimix_jax.models.bridge import saliency_map
from multimix_jax.models.multimix import normalize
from multimix_jax.objectives.base import Network

KINDS = ("gradient", "smoothgrad", "integrated", "none")
NOISE = 0.15 * 255  # of SmoothGrad, in grey values
Score = Callable[[jax.Array], jax.Array]  # images [B,H,W,C] -> [B,K], each image by itself


def make_map(
    kind: str, network: Network, variables: Any, images: jax.Array, keys: Any = None
) -> jax.Array | None:
    """The size of what a kind of map, one of KINDS, says of uint8 [B,H,W,C]: float [B,H,W,1].

    None of a network without a classifier. `keys` [B] are for the noise of 'smoothgrad'.
    """
    if kind == "none" or not network.classifies:
        return None
    if kind == "gradient":
        return saliency_map(lambda x: network.class_logits(variables, x), normalize(images))
    score = lambda x: network.class_logits(variables, normalize(x))
    values = images.astype(jnp.float32)
    if kind == "smoothgrad":
        gradient = smooth_gradient(score, values, keys, noise=NOISE)
    else:
        gradient = integrated_gradients(score, values)
    return jnp.abs(gradient).max(axis=-1, keepdims=True)


def smooth_gradient(
    score: Score, images: jax.Array, keys: jax.Array, *, noise: float, samples: int = 25
) -> jax.Array:
    """SmoothGrad: the mean gradient of the strongest class over noisy copies (Smilkov et al. 2017).

    Args:
      score: images -> class scores; the class that is strongest without noise is followed.
      images: float [B,H,W,C].
      keys: [B], one random key for each image.
      noise: standard deviation, in the units of the images; .1 to .2 of their range as published.
      samples: noisy copies.

    Returns:
      float [B,H,W,C], with signs.
    """
    draw = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))

    def noisy(sample: jax.Array) -> jax.Array:
        return images + noise * draw(jax.vmap(jax.random.fold_in, (0, None))(keys, sample))

    return _sum_of_gradients(score, images, noisy, samples) / samples


def integrated_gradients(
    score: Score, images: jax.Array, *, baseline: float = 0.0, steps: int = 32
) -> jax.Array:
    """Each pixel's share in the score of the strongest class (Sundararajan et al. 2017).

    The gradient along the straight way from an image of one value, `baseline`, to the image, by the
    midpoint rule of `steps` gradients, times the way. With signs, float [B,H,W,C] as the images:
    over an image the shares add up to the difference of the score between its ends, but for what
    the steps leave out.
    """
    difference = images - baseline
    between = lambda step: baseline + (step + 0.5) / steps * difference
    return difference * _sum_of_gradients(score, images, between, steps) / steps


def _sum_of_gradients(
    score: Score, images: jax.Array, at: Callable[[jax.Array], jax.Array], count: int
) -> jax.Array:
    """The gradients, at `count` other images, of the classes that are strongest in `images`."""
    strongest = score(images).argmax(axis=-1)
    followed = lambda x: jnp.take_along_axis(score(x), strongest[:, None], axis=-1).sum()

    def add(total: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
        return total + jax.grad(followed)(at(index)), None

    return jax.lax.scan(add, jnp.zeros_like(images), jnp.arange(count))[0]
