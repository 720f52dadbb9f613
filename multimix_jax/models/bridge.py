"""The saliency bridge: the classifier's saliency map, handed to the decoder."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from multimix_jax.ops.interpolation import resize_aligned


def saliency_map(
    score: Callable[[jax.Array], jax.Array], images: jax.Array, *, differentiable: bool = False
) -> jax.Array:
    """s = |d max_k score_k(image) / d image|, each image by itself (Simonyan et al. 2014).

    MultiMix (Haque et al. 2021), section 2; no normalisation, no smoothing. Of several image
    channels the largest is taken: [B,H,W,C] -> [B,H,W,1], zero or more, of the dtype of `images`.
    `score` gives class scores [B,K]; an image's depend on that image only. `differentiable` lets
    gradients flow through the map (second order); off as published.
    """
    # Images do not mix, so the gradient of the sum holds each image's own gradient.
    gradient = jax.grad(lambda x: score(x).max(axis=-1).sum())(images)
    saliency = jnp.abs(gradient).max(axis=-1, keepdims=True)
    return saliency if differentiable else jax.lax.stop_gradient(saliency)


class SaliencyBridge(nn.Module):
    """[image, saliency], shrunk bilinearly with aligned corners; no weights (Haque et al. 2021,
    figure 1)."""

    factor: int = 8  # of both sides

    @nn.compact
    def __call__(self, images: jax.Array, saliency: jax.Array) -> jax.Array:
        """[B,H,W,C] and [B,H,W,1] -> [B, H/factor, W/factor, C+1]."""
        height, width = images.shape[1] // self.factor, images.shape[2] // self.factor
        joined = jnp.concatenate([images, saliency.astype(images.dtype)], axis=-1)
        return resize_aligned(joined, height, width)
