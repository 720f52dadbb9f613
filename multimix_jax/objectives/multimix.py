"""The loss of MultiMix, term by term; with terms switched off, of the systems it is compared to."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from multimix_jax import augment, losses
from multimix_jax.keys import ExampleKeys
from multimix_jax.models.multimix import MultiMix, normalize
from multimix_jax.objectives.base import Batch, Metrics
from multimix_jax.objectives.joint import (
    CLS_LABELED,
    CLS_UNLABELED,
    SEG_LABELED,
    SEG_UNLABELED,
    JointObjective,
    at,
    dropout_keys,
)
from multimix_jax.train_state import TrainState


@dataclasses.dataclass(frozen=True)
class MultiMixObjective(JointObjective):
    """L = L_cls + L_seg (Haque et al. 2021, equations 1 to 5).

    L_cls = CE(weak(x), c) + pseudo_label_weight * pseudo-label CE(weak(u), strong(u))
    L_seg = dice_weight * Dice + kl_weight * KL(labelled masks || unlabelled masks)

    A term of weight 0 is not computed and its images are not asked for; a part that the model lacks
    takes its terms with it.

    Attributes:
      model, exclusive, mirror: see `JointObjective`.
      dice_weight: alpha.
      kl_weight: beta; couples image i of the labelled with image i of the unlabelled stream.
      pseudo_label_weight: lambda.
      threshold: confidence from which a pseudo-label counts.
    """

    dice_weight: float = 5.0
    kl_weight: float = 0.01
    pseudo_label_weight: float = 0.25
    threshold: float = 0.7

    @property
    def unlabeled(self) -> tuple[bool, bool]:
        """By the KL term, and by pseudo-labels."""
        return self.kl_weight > 0, self.pseudo_label_weight > 0

    @property
    def parts(self) -> tuple[str, ...]:
        """What it consists of."""
        model = self.model
        has = {
            "classifier": model.use_classifier,
            "decoder": model.use_decoder,
            "bridge": model.use_bridge,
            "gradient through the bridge": model.use_bridge and model.bridge_gradient,
            "pseudo-labels": CLS_UNLABELED in self.streams,
            "KL": SEG_UNLABELED in self.streams,
        }
        return tuple(name for name, there in has.items() if there)

    @property
    def uses_average(self) -> bool:
        """Its loss does not."""
        return False

    def __call__(
        self, params: Any, state: TrainState, batch: Batch, keys: ExampleKeys
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """Loss of one batch: scalar, (terms and other metrics, batch statistics).

        Streams hold `image` [B,H,W,C] of 0..255, `mask` [B,H,W,mask_channels] of 0/1 in
        seg/labeled, `label` [B] (or, not exclusive, [B,K]) in cls/labeled. In cls/unlabeled a
        `label` is read by a metric only; -1 means unknown.
        """
        streams = {name: at(batch, name) for name in self.streams}
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
            labels = streams[CLS_LABELED]["label"]
            labeled, strong = logits[: len(labels)], logits[len(labels) :]
            entropy = losses.cross_entropy(logits=labeled, label=labels)
            terms["cls/cross_entropy"] = entropy.mean()
            monitors["cls/train_accuracy"] = (self._pseudo_labels(labeled)[0] == labels).mean()
            if self.pseudo_label_weight:
                weak = self._weak_logits(params, streams[CLS_UNLABELED], keys)
                pseudo = losses.pseudo_label_cross_entropy(
                    weak_logits=weak,
                    strong_logits=strong,
                    threshold=self.threshold,
                    exclusive=self.exclusive,
                )
                terms["cls/pseudo_label"] = self.pseudo_label_weight * pseudo.mean()
                monitors |= self._pseudo_label_monitors(weak, streams[CLS_UNLABELED])
        return jnp.asarray(sum(terms.values())), ({**terms, **monitors}, state.batch_stats)

    def views(self, batch: Batch, keys: ExampleKeys) -> dict[str, jax.Array]:
        """The 8-bit images that the network sees of `batch`, by stream and view, to look at."""
        streams = {name: at(batch, name) for name in self.streams}
        views = {name: stream["image"] for name, stream in streams.items()}
        seen = self._views(streams, keys)
        if CLS_LABELED in streams:
            views[f"{CLS_LABELED}, weak"] = seen[CLS_LABELED]
        if CLS_UNLABELED in streams:
            views[f"{CLS_UNLABELED}, strong"] = seen[CLS_UNLABELED]
            views[f"{CLS_UNLABELED}, weak"] = self._weak_view(streams[CLS_UNLABELED], keys)
        return views

    def _views(self, streams: Batch, keys: ExampleKeys) -> dict[str, jax.Array]:
        """What the network sees of each stream where a gradient flows."""
        augmented = {CLS_LABELED: augment.weak, CLS_UNLABELED: augment.strong}
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
        return jax.vmap(augment.weak)(keys(f"{CLS_UNLABELED}/weak", len(images)), images)

    def _segmentation_terms(self, mask_logits: jax.Array, streams: Batch) -> Metrics:
        masks = streams[SEG_LABELED]["mask"].astype(jnp.float32)
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
        dropout_keys = keys(f"{CLS_UNLABELED}/weak_dropout", len(images))
        features = self._apply(params, images, dropout_keys, method="encode")
        return self._apply(params, features, method="classify")

    def _pseudo_label_monitors(self, weak_logits: jax.Array, stream: Batch) -> Metrics:
        guessed, accepted = self._pseudo_labels(weak_logits)
        monitors = {"cls/accepted": accepted.mean()}
        if "label" in stream:
            correct = accepted & (guessed == stream["label"])
            monitors["cls/accepted_and_correct"] = correct.mean()
        return monitors

    def _pseudo_labels(self, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        return losses.pseudo_labels(logits, threshold=self.threshold, exclusive=self.exclusive)


def make_multimix(
    *, model: Mapping[str, Any], dtype: str, terms: Mapping[str, Any], axis_name: str
) -> MultiMixObjective:
    """The objective with its network, from plain values; see `MultiMix` and `MultiMixObjective`."""
    del axis_name  # nothing in it needs the other devices
    return MultiMixObjective(MultiMix(**model, dtype=jnp.dtype(dtype)), **terms)
