"""The loss of MultiMix, term by term; with terms switched off, of the systems it is compared to."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from multimix_jax import losses
from multimix_jax.augment import randaugment
from multimix_jax.keys import ExampleKeys
from multimix_jax.labels import LabelSpec
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
        streams = {name: batch[name] for name in self.streams}
        views = self._views(streams, keys)
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
            terms |= self._segmentation_terms(mask_logits, streams)
        if self.model.use_classifier:
            logits = self._apply(params, [level[split:] for level in features], method="classify")
            taught = None
            if self.pseudo_label_weight:
                taught = self._weak_logits(params, streams[Stream.CLS_UNLABELED], keys)
            found, monitors = self._classification(logits, batch, taught)
            if "cls/pseudo_label" in found:
                found["cls/pseudo_label"] *= self.pseudo_label_weight
            terms |= found
        return jnp.asarray(sum(terms.values())), ({**terms, **monitors}, state.batch_stats)

    def views(self, batch: Batch, keys: ExampleKeys) -> dict[str, jax.Array]:
        """The 8-bit images that the network sees of `batch`, by stream and view, to look at."""
        streams = {name: batch[name] for name in self.streams}
        views = {name: stream["image"] for name, stream in streams.items()}
        seen = self._views(streams, keys)
        if Stream.CLS_LABELED in streams:
            views[f"{Stream.CLS_LABELED}, weak"] = seen[Stream.CLS_LABELED]
        if Stream.CLS_UNLABELED in streams:
            views[f"{Stream.CLS_UNLABELED}, strong"] = seen[Stream.CLS_UNLABELED]
            views[f"{Stream.CLS_UNLABELED}, weak"] = self._weak_view(
                streams[Stream.CLS_UNLABELED], keys
            )
        return views

    def _views(self, streams: Batch, keys: ExampleKeys) -> dict[str, jax.Array]:
        """What the network sees of each stream where a gradient flows."""
        augmented = {Stream.CLS_LABELED: randaugment.weak, Stream.CLS_UNLABELED: randaugment.strong}
        views = {}
        for name, stream in streams.items():
            images = stream["image"]
            # Segmentation images are not augmented, as published.
            if name in augmented:
                images = jax.vmap(augmented[name])(keys(f"{name}/view", len(images)), images)
            views[name] = images
        return views

    def _weak_view(self, stream: Batch, keys: ExampleKeys) -> jax.Array:
        images = stream["image"]
        return jax.vmap(randaugment.weak)(keys(f"{Stream.CLS_UNLABELED}/weak", len(images)), images)

    def _segmentation_terms(self, mask_logits: jax.Array, streams: Batch) -> Metrics:
        masks = streams[Stream.SEG_LABELED]["mask"].astype(jnp.float32)
        labeled, unlabeled = mask_logits[: len(masks)], mask_logits[len(masks) :]
        dice = losses.dice_loss(logits=labeled, mask=masks)
        terms = {"seg/dice": self.dice_weight * dice.mean()}
        if self.kl_weight:
            kl = losses.bernoulli_kl(p_logits=labeled, q_logits=unlabeled)
            terms["seg/kl"] = self.kl_weight * kl.mean()
        return terms

    def _weak_logits(self, params: Any, stream: Batch, keys: ExampleKeys) -> jax.Array:
        """Logits of the weak view, by an encoder call of its own: nothing is stored to go back."""
        images = normalize(self._weak_view(stream, keys))
        params = jax.lax.stop_gradient(params)
        dropout_keys = keys(f"{Stream.CLS_UNLABELED}/weak_dropout", len(images))
        features = self._apply(params, images, dropout_keys, method="encode")
        return self._apply(params, features, method="classify")


def _make(
    model: Mapping[str, Any],
    dtype: str,
    terms: Mapping[str, Any],
    labels: LabelSpec,
    axis_name: str,
) -> MultiMixObjective:
    del axis_name  # nothing in it needs the other devices
    return MultiMixObjective.of_config(model, dtype, terms, labels)


METHOD = Method(_make, switches=(*SWITCHES, "objective.kl_weight"))
