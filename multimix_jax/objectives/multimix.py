"""The loss of MultiMix, term by term; with terms switched off, of the systems it is compared to."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from multimix_jax import losses
from multimix_jax.augment import randaugment
from multimix_jax.keys import ExampleKeys
from multimix_jax.models.multimix import normalize
from multimix_jax.names import Component, Stream, Task
from multimix_jax.objectives.base import Batch, Method, Metrics
from multimix_jax.objectives.joint import (
    SWITCHES,
    JointObjective,
    dropout_keys,
)
from multimix_jax.state import TrainState


@dataclasses.dataclass(frozen=True)
class MultiMixObjective(JointObjective):
    """L = L_cls + L_seg (Haque et al. 2021, equations 1 to 5).

    L_cls = CE(weak(x), c) + pseudo_label_weight * pseudo-label CE(weak(u), strong(u))
    L_seg = dice_weight * Dice + kl_weight * KL(labelled masks || unlabelled masks)

    A term of weight 0 is not computed and its images are not asked for; a part that the model lacks
    takes its terms with it.

    Attributes:
      model, multi_label, threshold: see `JointObjective`.
      pseudo_label_weight: lambda.
      dice_weight: alpha.
      kl_weight: beta; couples image i of the labelled with image i of the unlabelled stream.
    """

    dice_weight: float = 5.0
    kl_weight: float = 0.01

    def learns_unlabeled(self, task: Task) -> bool:
        """By the KL term, and by pseudo-labels."""
        return self.kl_weight > 0 if task == Task.SEG else super().learns_unlabeled(task)

    @property
    def components(self) -> tuple[Component, ...]:
        """What it consists of."""
        kl = (Component.KL,) if Stream.SEG_UNLABELED in self.streams else ()
        return (*super().components, *kl)

    @property
    def uses_average(self) -> bool:
        """Its loss does not."""
        return False

    def __call__(
        self, params: Any, state: TrainState, batch: Batch, keys: ExampleKeys
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """Loss of one batch: scalar, (terms and other metrics, batch statistics)."""
        views = self._views(batch, keys)
        images, features, split = self._encode(params, views, keys)

        terms: Metrics = {}
        monitors: Metrics = {}
        if self.model.use_decoder:
            mask_logits = self._segment(
                params,
                images[:split],
                [level[:split] for level in features],
                dropout_keys(keys, "decoder", views)[:split],
            )
            terms |= self._segmentation_terms(mask_logits, batch)
        if self.model.use_classifier:
            logits = self._apply(params, [level[split:] for level in features], method="classify")
            taught = None
            if self.pseudo_label_weight:
                taught = self._weak_logits(params, batch, keys)
            class_terms, monitors = self._classification(logits, batch, taught)
            if "cls/pseudo_label" in class_terms:
                class_terms["cls/pseudo_label"] *= self.pseudo_label_weight
            terms |= class_terms
        return jnp.asarray(sum(terms.values())), ({**terms, **monitors}, state.batch_stats)

    def views(self, batch: Batch, keys: ExampleKeys) -> dict[str, jax.Array]:
        """The 8-bit images that the network sees of `batch`, by stream and view."""
        shown = {str(stream): batch[stream]["image"] for stream in self.streams}
        views = self._views(batch, keys)
        if Stream.CLS_LABELED in views:
            shown[f"{Stream.CLS_LABELED}, weak"] = views[Stream.CLS_LABELED]
        if Stream.CLS_UNLABELED in views:
            shown[f"{Stream.CLS_UNLABELED}, strong"] = views[Stream.CLS_UNLABELED]
            shown[f"{Stream.CLS_UNLABELED}, weak"] = self._weak_view(batch, keys)
        return shown

    def _views(self, batch: Batch, keys: ExampleKeys) -> dict[Stream, jax.Array]:
        """What the network sees of each stream where a gradient flows."""
        # Segmentation images are not augmented, as published.
        augment = {Stream.CLS_LABELED: randaugment.weak, Stream.CLS_UNLABELED: randaugment.strong}
        views = {}
        for stream in self.streams:
            images = batch[stream]["image"]
            if stream in augment:
                image_keys = keys(f"{stream}/view", len(images))
                images = jax.vmap(augment[stream])(image_keys, images)
            views[stream] = images
        return views

    def _weak_view(self, batch: Batch, keys: ExampleKeys) -> jax.Array:
        images = batch[Stream.CLS_UNLABELED]["image"]
        return jax.vmap(randaugment.weak)(keys(f"{Stream.CLS_UNLABELED}/weak", len(images)), images)

    def _segmentation_terms(self, mask_logits: jax.Array, batch: Batch) -> Metrics:
        masks = batch[Stream.SEG_LABELED]["mask"].astype(jnp.float32)
        labeled, unlabeled = mask_logits[: len(masks)], mask_logits[len(masks) :]
        dice = losses.dice_loss(logits=labeled, mask=masks)
        terms = {"seg/dice": self.dice_weight * dice.mean()}
        if self.kl_weight:
            kl = losses.bernoulli_kl(p_logits=labeled, q_logits=unlabeled)
            terms["seg/kl"] = self.kl_weight * kl.mean()
        return terms

    def _weak_logits(self, params: Any, batch: Batch, keys: ExampleKeys) -> jax.Array:
        """Logits of the weak view, by an encoder call of its own: nothing is stored to go back."""
        images = normalize(self._weak_view(batch, keys))
        params = jax.lax.stop_gradient(params)
        dropout = keys(f"{Stream.CLS_UNLABELED}/weak_dropout", len(images))
        features = self._apply(params, images, dropout, method="encode")
        return self._apply(params, features, method="classify")


METHOD = Method(MultiMixObjective.of_config, switches=(*SWITCHES, "objective.kl_weight"))
