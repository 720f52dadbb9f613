"""Losses: arrays in, one number per example out; differentiable; the caller takes the mean.

Shapes: `B` images, `H` x `W` pixels, `D` slices of a volume, `C` mask channels, `K` classes.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import chex
import jax
import jax.numpy as jnp
import optax

from multimix_jax.labels import VOID


def cross_entropy(*, logits: jax.Array, label: jax.Array) -> jax.Array:
    """-log softmax(logits)[label]; of independent classes the mean of their binary entropies.

    From logits [B,K] and label [B], integers in 0..K-1, or of independent classes [B,K] of 0 and 1,
    and -1 where it is unknown, which adds nothing to the sum over the K (U-Ignore, Irvin et al.
    2019), so that every answer has the same weight. Gives [B], zero or more.
    """
    chex.assert_rank([logits, label], [2, {1, 2}])
    if label.ndim == 1:
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, label)
    chex.assert_equal_shape([logits, label])
    entropy = optax.losses.sigmoid_binary_cross_entropy(logits, label)
    return jnp.where(label >= 0, entropy, 0.0).mean(axis=-1)


def pseudo_labels(
    logits: jax.Array, *, threshold: float, multi_label: bool = False
) -> tuple[jax.Array, jax.Array]:
    """The classes that a network takes to be true, and whether it is confident enough.

    From logits [B,K]; the answer counts from a probability of `threshold` in [0, 1]. Gives labels,
    integers in 0..K-1 [B], or of independent classes 0 and 1 [B,K]; and bool of that shape.
    """
    if multi_label:  # the probability of the likelier of the two answers
        return (logits >= 0).astype(jnp.int32), jax.nn.sigmoid(jnp.abs(logits)) >= threshold
    return logits.argmax(axis=-1), jax.nn.softmax(logits).max(axis=-1) >= threshold


def pseudo_label_cross_entropy(
    *, weak_logits: jax.Array, strong_logits: jax.Array, threshold: float, multi_label: bool = False
) -> jax.Array:
    """1(max softmax(weak) >= threshold) * CE(strong, argmax weak).

    Consistency of two views of one unlabelled image (FixMatch, Sohn et al. 2020, equation 4;
    MultiMix, Haque et al. 2021, equation 2). Logits are [B,K], the threshold is in [0, 1]; gives
    [B], exactly zero where the weak view is not confident enough, of independent classes the mean
    over them. No gradient reaches `weak_logits`.
    """
    chex.assert_rank([weak_logits, strong_logits], 2)
    chex.assert_equal_shape([weak_logits, strong_logits])
    weak_logits = jax.lax.stop_gradient(weak_logits)
    label, confident = pseudo_labels(weak_logits, threshold=threshold, multi_label=multi_label)
    if multi_label:
        loss = optax.losses.sigmoid_binary_cross_entropy(strong_logits, label)
        return jnp.where(confident, loss, 0.0).mean(axis=-1)
    return jnp.where(confident, cross_entropy(logits=strong_logits, label=label), 0.0)


class Truth(NamedTuple):
    """Masks as they are learned from."""

    mask: jax.Array  # float32 [B,(D,)H,W,C] in [0, 1]
    known: jax.Array | None = None  # float32 [B,(D,)H,W,1], how much a pixel counts; None: all

    @classmethod
    def of_stored(cls, mask: jax.Array, *, void: bool) -> Self:
        """Of masks [B,(D,)H,W,C] of 0 and 1 and, where they may be `void`, of VOID."""
        if not void:
            return cls(mask.astype(jnp.float32))
        known = (mask != VOID).all(axis=-1, keepdims=True)
        return cls(((mask == 1) & known).astype(jnp.float32), known.astype(jnp.float32))

    def moved(self, move: Callable[..., jax.Array], order: Sequence[int] = ()) -> Self:
        """Both moved alike by what interpolates (of a mirror image, channels are put into an
        `order`); what comes from outside of the image is known."""
        inside = move(self.mask, order)
        if self.known is None:
            return self._replace(mask=inside)
        known = 1.0 - move(1.0 - self.known)
        # The share of what is known there, since void pixels hold 0.
        return type(self)(jnp.clip(inside / jnp.maximum(known, 1e-6), 0.0, 1.0), known)


def dice_loss(
    *, logits: jax.Array, mask: jax.Array, known: jax.Array | None = None, smooth: float = 1.0
) -> jax.Array:
    """1 - (2 sum(p y) + smooth) / (sum(p) + sum(y) + smooth), p = sigmoid(logits).

    Soft Dice (Milletari et al. 2016) with plain sums below the line, as in MultiMix (Haque et al.
    2021, equation 4). Sums run over the pixels of each mask channel, as far as they are known
    (`Truth.known`); the channels are averaged. From [B,H,W,C], the mask in [0, 1]; gives [B] in
    [0, 1].
    """
    chex.assert_rank([logits, mask], 4)
    chex.assert_equal_shape([logits, mask])
    probability = jax.nn.sigmoid(logits)
    sums = lambda values: _known_part(values, known).sum(axis=(1, 2))
    overlap = sums(probability * mask)
    total = sums(probability) + sums(mask)
    return (1.0 - (2.0 * overlap + smooth) / (total + smooth)).mean(axis=-1)


def bernoulli_kl(*, p_logits: jax.Array, q_logits: jax.Array) -> jax.Array:
    """KL(p || q) of the two-class distributions sigmoid(p_logits), sigmoid(q_logits) of each pixel.

    The regulariser between predicted masks of MultiMix (Haque et al. 2021, equation 4). The
    authors' code takes a softmax over the single channel, which is always 0; this is the two-class
    form that the text means. From [B,H,W,C]; gives [B], the mean over pixels and channels, in nats.
    """
    chex.assert_rank([p_logits, q_logits], 4)
    chex.assert_equal_shape([p_logits, q_logits])
    p = jax.nn.sigmoid(p_logits)
    inside = jax.nn.log_sigmoid(p_logits) - jax.nn.log_sigmoid(q_logits)
    outside = jax.nn.log_sigmoid(-p_logits) - jax.nn.log_sigmoid(-q_logits)
    return (p * inside + (1.0 - p) * outside).mean(axis=(1, 2, 3))


def binary_cross_entropy(
    *, logits: jax.Array, mask: jax.Array, known: jax.Array | None = None
) -> jax.Array:
    """-y log p - (1 - y) log(1 - p), p = sigmoid(logits), the mean over pixels and channels.

    From [B,(D,)H,W,C], the mask in [0, 1]; gives [B], in nats. The mean is of what is known
    (`Truth.known`), 0 where nothing is.
    """
    chex.assert_equal_shape([logits, mask])
    entropy = optax.losses.sigmoid_binary_cross_entropy(logits, mask)
    axes = tuple(range(1, logits.ndim))
    if known is None:
        return entropy.mean(axis=axes)
    return (entropy * known).sum(axis=axes) / (logits.shape[-1] * known.sum(axis=axes)).clip(1.0)


def squared_dice_loss(
    *,
    probability: jax.Array,
    mask: jax.Array,
    known: jax.Array | None = None,
    smooth: float = 1e-5,
) -> jax.Array:
    """1 - (2 sum(p y) + smooth) / (sum(p^2) + sum(y^2) + smooth).

    Soft Dice with squares below the line (Milletari et al. 2016; Zhang & Zhang 2021, equations 3
    and 4). Sums run over the pixels of each channel, as far as they are known (`Truth.known`); the
    channels are averaged. From [B,(D,)H,W,C], both in [0, 1]; gives [B] in [0, 1].
    """
    chex.assert_equal_shape([probability, mask])
    pixels = tuple(range(1, mask.ndim - 1))
    sums = lambda values: _known_part(values, known).sum(axis=pixels)
    overlap = sums(probability * mask)
    total = sums(jnp.square(probability)) + sums(jnp.square(mask))
    return (1.0 - (2.0 * overlap + smooth) / (total + smooth)).mean(axis=-1)


def _known_part(values: jax.Array, known: jax.Array | None) -> jax.Array:
    return values if known is None else values * known


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def mask_of_distance(distance: jax.Array, sharpness: float) -> jax.Array:
    """sigmoid(-sharpness * distance): a soft mask of a signed distance map, negative inside.

    The inverse of the task transformation (Zhang & Zhang 2021, equation 2; sharpness 1500). Of any
    shape, distances in [-1, 1]; finite for any argument. Its slope is computed as p (1 - p) with
    1 - p = sigmoid(sharpness * distance), so that it does not vanish where p is rounded to 1.
    """
    return jax.nn.sigmoid(-sharpness * distance)


@mask_of_distance.defjvp
def _mask_of_distance_jvp(
    sharpness: float, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (distance,), (tangent,) = primals, tangents
    inside = mask_of_distance(distance, sharpness)
    outside = jax.nn.sigmoid(sharpness * distance)
    return inside, -sharpness * inside * outside * tangent
