"""The loss of MultiMix, term by term; with terms switched off, of the systems it is compared to."""

import dataclasses
import functools
from typing import Any

import jax

from multimix_jax import losses
from multimix_jax.augment import randaugment
from multimix_jax.keys import ExampleKeys
from multimix_jax.names import Component, Stream
from multimix_jax.objectives.base import Batch, Metrics
from multimix_jax.objectives.joint import JointObjective, Views
from multimix_jax.state import TrainState


@dataclasses.dataclass(frozen=True)
class MultiMixObjective(JointObjective):
    """L = L_cls + L_seg (Haque et al. 2021, equations 1 to 5).

    L_cls = CE(weak(x), c) + pseudo_label_weight * pseudo-label CE(weak(u), strong(u))
    L_seg = dice_weight * Dice + kl_weight * KL(labelled masks || unlabelled masks)

    The weights are the paper's lambda, alpha and beta. A term of weight 0 is not computed and its
    images are not asked for; a part that the model lacks takes its terms with it. KL couples image
    i of the labelled with image i of the unlabelled stream.
    """

    dice_weight: float = 5.0
    kl_weight: float = 0.01

    switches = (*JointObjective.switches, "objective.kl_weight")
    view_names = {Stream.CLS_LABELED: "weak", Stream.CLS_UNLABELED: "strong"}
    weak_name = "weak"

    @property
    def has(self) -> dict[Component, bool]:
        return super().has | {Component.KL: self.model.use_decoder and self.kl_weight > 0}

    def _views(self, batch: Batch, keys: ExampleKeys) -> Views:
        # Segmentation images are not augmented, as published.
        augment = {
            Stream.CLS_LABELED: (randaugment.weak, randaugment.weak_is_mirrored),
            Stream.CLS_UNLABELED: (randaugment.strong, randaugment.strong_is_mirrored),
        }
        flips, matters = self.labels.may_mirror, bool(self.labels.class_order)
        views, mirrored = {}, {}
        weak = truth = None
        weak_mirrored: jax.Array | bool = False
        for stream in self.streams:
            images = batch[stream]["image"]
            if stream == Stream.SEG_LABELED:
                truth = losses.Truth.of_stored(batch[stream]["mask"], void=self.labels.void)
            elif stream == Stream.CLS_UNLABELED:
                weak_keys = keys(f"{stream}/weak", len(images))
                weak = jax.vmap(functools.partial(randaugment.weak, flips=flips))(weak_keys, images)
                if matters:
                    weak_mirrored = jax.vmap(randaugment.weak_is_mirrored)(weak_keys)
            if stream in augment:
                view, is_mirrored = augment[stream]
                own_keys = keys(f"{stream}/view", len(images))
                images = jax.vmap(functools.partial(view, flips=flips))(own_keys, images)
                if matters:
                    mirrored[stream] = jax.vmap(is_mirrored)(own_keys)
            views[stream] = images
        return Views(views, weak, truth, mirrored, weak_mirrored)

    def _teach(
        self, params: Any, state: TrainState, weak: jax.Array, keys: ExampleKeys
    ) -> jax.Array:
        """By an encoder call of its own: nothing is stored to go back."""
        dropout = keys(f"{Stream.CLS_UNLABELED}/weak_dropout", len(weak))
        variables = {"params": jax.lax.stop_gradient(params)}
        return self.network.class_logits(variables, weak, dropout)

    def _segmentation_terms(self, logits: jax.Array, truth: losses.Truth) -> Metrics:
        labeled, unlabeled = logits[: len(truth.mask)], logits[len(truth.mask) :]
        dice = losses.dice_loss(logits=labeled, **truth._asdict())
        terms = {"seg/dice": self.dice_weight * dice.mean()}
        if self.kl_weight:
            kl = losses.bernoulli_kl(p_logits=labeled, q_logits=unlabeled)
            terms["seg/kl"] = self.kl_weight * kl.mean()
        return terms
