"""What trained networks say of images together: averages, their disagreement, saliency."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from multimix_jax.evaluation.calibration import Calibration
from multimix_jax.inference import saliency
from multimix_jax.objectives import Objective

PyTree = Any
Answer = dict[str, jax.Array]
Predict = Callable[[Sequence[PyTree], jax.Array, jax.Array], Answer]

SALIENCY = ("gradient", "smoothgrad", "integrated", "none")
NOISE = 0.15 * 255  # of SmoothGrad, in grey values


def make_predictor(
    objectives: Sequence[Objective],
    *,
    calibrations: Sequence[Calibration] = (),
    flips: bool = False,
    dropout: int = 0,
    saliency_kind: str = "gradient",
) -> Predict:
    """What networks say together of images; to be compiled.

    Args:
      objectives: the method of each network.
      calibrations: of the class probabilities of each; none by default.
      flips: whether each also looks at the image from right to left; the answers of one that does
        so by itself (`JointObjective.mirror`) count as two.
      dropout: answers of each with dropout on (Gal & Ghahramani 2016), 0 for one without.
      saliency_kind: 'gradient', as the bridge sees it; 'smoothgrad' or 'integrated', see
        `saliency`; or 'none'.

    Returns:
      (variables of each network, uint8 [B,H,W,C], a random key for each image [B]) -> `mask`
      float32 [B,H,W,C'] and `classes` [B,K], the means of all answers' probabilities, and
      `saliency` [B,H,W,1], zero or more, the mean over networks: what there is of them. Of two
      answers or more also their disagreement: `mask_spread` [B,H,W,C'] and `classes_spread` [B,K],
      standard deviations of the probabilities, and `mask_disagreement` [B,C'], 1 less the mean Dice
      of each answer's mask with the mask of all.
    """
    views = (False, True) if flips else (False,)
    if flips:
        objectives = [_of_one_view(objective) for objective in objectives]

    def predict(variables: Sequence[PyTree], images: jax.Array, keys: jax.Array) -> Answer:
        answers: list[Answer] = []  # each with an axis of draws before that of images
        maps = []
        for index, (objective, held) in enumerate(zip(objectives, variables, strict=True)):
            for mirrored in views:
                own = jax.vmap(jax.random.fold_in, (0, None))(keys, 2 * index + mirrored)
                seen = images[:, :, ::-1] if mirrored else images
                found = dict(_draws(objective, held, seen, own, dropout))
                shown = _saliency(objective, held, seen, own, saliency_kind)
                if mirrored and "mask" in found:
                    found["mask"] = found["mask"][..., ::-1, :]
                if "classes" in found and calibrations:
                    found["classes"] = calibrations[index](found["classes"])
                answers.append({k: v for k, v in found.items() if k in ("mask", "classes")})
                if shown is not None:
                    maps.append(shown[:, :, ::-1] if mirrored else shown)
        every = {k: jnp.concatenate([answer[k] for answer in answers]) for k in answers[0]}
        result = {name: values.mean(axis=0) for name, values in every.items()}
        if maps:
            result["saliency"] = jnp.stack(maps).mean(axis=0)
        if len(answers) * max(dropout, 1) > 1:
            result |= {f"{name}_spread": values.std(axis=0) for name, values in every.items()}
            if "mask" in every:
                result["mask_disagreement"] = _disagreement(every["mask"], result["mask"])
        return result

    return predict


def _of_one_view(objective: Objective) -> Objective:
    """One whose answer is not already the mean of both views, which could not disagree."""
    held: Any = objective
    return dataclasses.replace(held, mirror=False) if getattr(held, "mirror", False) else objective


def _draws(
    objective: Objective, variables: PyTree, images: jax.Array, keys: jax.Array, dropout: int
) -> Answer:
    """Answers [draws,B,...], of which each has dropout of its own; or [1,B,...] without."""
    if not dropout:
        return {k: v[None] for k, v in objective.predict(variables, images).items()}

    def answer(draw: jax.Array) -> Answer:
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, draw)
        return objective.predict(variables, images, own)

    return jax.lax.map(answer, jnp.arange(dropout))


def _saliency(
    objective: Objective, variables: PyTree, images: jax.Array, keys: jax.Array, kind: str
) -> jax.Array | None:
    """[B,H,W,1], the size of what a kind of map says; None without a classifier."""
    if kind == "none":
        return None
    if kind == "gradient":
        return objective.saliency(variables, images)
    if jax.eval_shape(objective.class_logits, variables, images) is None:
        return None
    score: Any = functools.partial(objective.class_logits, variables)
    values = images.astype(jnp.float32)
    if kind == "smoothgrad":
        found = saliency.smooth_gradient(score, values, keys, noise=NOISE)
    else:
        found = saliency.integrated_gradients(score, values)
    return jnp.abs(found).max(axis=-1, keepdims=True)


def _disagreement(masks: jax.Array, mean: jax.Array) -> jax.Array:
    """Probabilities [n,B,H,W,C'] and [B,H,W,C'] -> 1 less the mean Dice, [B,C']; two empty masks
    agree."""
    every, together = masks >= 0.5, mean[None] >= 0.5
    common = (every & together).sum(axis=(2, 3))
    total = every.sum(axis=(2, 3)) + together.sum(axis=(2, 3))
    return (1 - jnp.where(total > 0, 2 * common / jnp.maximum(total, 1), 1.0)).mean(axis=0)
