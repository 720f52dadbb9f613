"""What a classifier looks at: maps of how its score depends on each pixel.

The plain gradient, which the bridge hands to the decoder, is `models.bridge.saliency_map`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Score = Callable[[jax.Array], jax.Array]  # images [B,H,W,C] -> [B,K], each image by itself


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
    gradient = _gradient_of_strongest(score, images)
    draw = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))

    def add(total: jax.Array, sample: jax.Array) -> tuple[jax.Array, None]:
        at = jax.vmap(jax.random.fold_in, (0, None))(keys, sample)
        return total + gradient(images + noise * draw(at)), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(images), jnp.arange(samples))
    return total / samples


def integrated_gradients(
    score: Score, images: jax.Array, *, baseline: float = 0.0, steps: int = 32
) -> jax.Array:
    """Each pixel's share in the score of the strongest class (Sundararajan et al. 2017).

    The gradient along the straight way from an image of one value to the image, by the midpoint
    rule, times the way.

    Args:
      score: images -> class scores.
      images: float [B,H,W,C].
      baseline: value of every pixel where the way starts; black by default.
      steps: gradients along the way.

    Returns:
      float [B,H,W,C], with signs: over an image they add up to the difference of the score between
      its ends, but for what the steps leave out.
    """
    gradient = _gradient_of_strongest(score, images)
    way = images - baseline

    def add(total: jax.Array, step: jax.Array) -> tuple[jax.Array, None]:
        return total + gradient(baseline + (step + 0.5) / steps * way), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(images), jnp.arange(steps))
    return way * total / steps


def _gradient_of_strongest(score: Score, images: jax.Array) -> Score:
    """Gradient at any images of the scores of the classes that are strongest in `images`."""
    strongest = score(images).argmax(axis=-1)
    followed = lambda x: jnp.take_along_axis(score(x), strongest[:, None], axis=-1).sum()
    return jax.grad(followed)
