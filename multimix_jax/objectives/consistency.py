"""Masks and classes from few labels: a moving-average teacher, and views that must agree with it.

The recipe under work (configs/best.py); docs/experiments.md says what each part is worth.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from multimix_jax import losses
from multimix_jax.appearance import cut_out, draw_appearance
from multimix_jax.keys import ExampleKeys
from multimix_jax.models.multimix import MultiMix, normalize
from multimix_jax.objectives.base import Batch, Metrics, PyTree
from multimix_jax.objectives.joint import (
    CLS_LABELED,
    CLS_UNLABELED,
    SEG_LABELED,
    SEG_UNLABELED,
    JointObjective,
    at,
    dropout_keys,
)
from multimix_jax.pose import apply_pose, draw_pose
from multimix_jax.train_state import TrainState

_SHARES = "class_shares"  # beside the networks' statistics
_LABELS, _GUESSES = "labels", "guesses"
_TERMS = "seg/cross_entropy seg/dice seg/soft_mask cls/cross_entropy cls/pseudo_label".split()
_RARE = 1e-3  # least share of a class, so that a weight stays finite


@dataclasses.dataclass(frozen=True)
class ConsistencyObjective(JointObjective):
    """L = L_cls + L_seg, each from labels and from a teacher.

    L_seg = BCE(view(x), y) + Dice(view(x), y) on labelled images, image and mask in one pose
      + soft_mask_weight r(step) BCE(look(pose(u)), teacher(pose(u))) on unlabelled ones
    L_cls = b(c) CE(view(x), c) on labelled images
      + pseudo_label_weight r(step) b(c') 1(q(c') >= threshold) CE(strong(u), c') on unlabelled
        ones, c' = argmax q, q ~ teacher(weak(u)) * labels / guesses

    A view is a pose (`pose.py`) and a look (`appearance.py`), a strong one has a hole besides
    (`cut_out`), a weak one is a pose of `weak_pose`. The teacher is the moving average of the
    weights (Tarvainen & Valpola 2017), without dropout; pseudo-labels are as in FixMatch (Sohn et
    al. 2020), q is aligned with the labels' shares as in ReMixMatch (Berthelot et al. 2020):
    `labels` and `guesses` are running means of the labels and of what the teacher says. b(c) =
    1 / (K labels(c)) balances the classes. r = min(step / ramp_up, 1).

    Attributes:
      model, exclusive: see `JointObjective`.
      soft_mask_weight, pseudo_label_weight: 0 leaves the term out.
      threshold: confidence in [0, 1] from which a pseudo-label counts.
      align: whether pseudo-labels are aligned; of independent classes they never are.
      balance: whether classes are weighted to equal shares; of independent ones they never are.
      ramp_up: steps until the teacher's terms have their whole weight, 0 from the start.
      shares_decay: of the running means.
      pose, weak_pose: strength of the poses, see `draw_pose`; of a weak view.
      appearance: whether views have a look of their own, and strong ones a hole.
    """

    soft_mask_weight: float = 1.0
    pseudo_label_weight: float = 1.0
    threshold: float = 0.95
    align: bool = True
    balance: bool = True
    ramp_up: int = 300
    shares_decay: float = 0.99
    pose: float = 1.0
    weak_pose: float = 0.3
    appearance: bool = True

    @property
    def unlabeled(self) -> tuple[bool, bool]:
        """By soft masks, and by pseudo-labels."""
        return self.soft_mask_weight > 0, self.pseudo_label_weight > 0

    @property
    def parts(self) -> tuple[str, ...]:
        """What it consists of."""
        has = {
            "classifier": self.model.use_classifier,
            "decoder": self.model.use_decoder,
            "bridge": self.model.use_bridge,
            "smooth saliency": self.model.use_bridge and self.model.bridge_smooth,
            "soft masks": SEG_UNLABELED in self.streams,
            "pseudo-labels": CLS_UNLABELED in self.streams,
            "alignment": CLS_UNLABELED in self.streams and self.align,
            "balance": self.model.use_classifier and self.balance,
            "pose": self.pose > 0,
            "appearance": self.appearance,
        }
        return tuple(name for name, there in has.items() if there)

    @property
    def uses_average(self) -> bool:
        """The teacher is the moving average of the weights."""
        return bool({SEG_UNLABELED, CLS_UNLABELED} & set(self.streams))

    def init(self, key: jax.Array, size: int) -> PyTree:
        """Variables for images of `size` x `size`, and equal shares of the classes."""
        variables = super().init(key, size)
        if not (self.model.use_classifier and self.exclusive):
            return variables
        equal = jnp.full(self.model.num_classes, 1 / self.model.num_classes)
        return {**variables, "batch_stats": {_SHARES: {_LABELS: equal, _GUESSES: equal}}}

    def __call__(
        self, params: Any, state: TrainState, batch: Batch, keys: ExampleKeys
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """Loss of one batch: scalar, (terms and other metrics, batch statistics).

        Streams hold `image` [B,H,W,C] of 0..255, `mask` [B,H,W,mask_channels] of 0/1 in
        seg/labeled, `label` [B] (or, not exclusive, [B,K]) in cls/labeled. In cls/unlabeled a
        `label` is read by a metric only; -1 means unknown.
        """
        views, taught, mask = self._views(batch, keys)
        masks_taught, logits_taught = self._teacher(state, taught)
        ramp_up = jnp.minimum(state.step / max(self.ramp_up, 1), 1.0)
        images, features, split = self._encode(params, views, keys)

        metrics: Metrics = {}
        stats = state.batch_stats
        if self.model.use_decoder:
            levels = [level[:split] for level in features]
            dropout = dropout_keys(keys, "decoder", views)[:split]
            logits = self._segment(params, images[:split], levels, dropout)
            metrics |= self._mask_terms(logits, mask, masks_taught, ramp_up)
        if self.model.use_classifier:
            logits = self._apply(params, [level[split:] for level in features], method="classify")
            # By the shares before this batch, which are the same on all devices.
            metrics |= self._class_terms(logits, batch, logits_taught, stats, ramp_up)
            stats = self._new_shares(stats, at(batch, CLS_LABELED)["label"], logits_taught)
        loss = sum(value for name, value in metrics.items() if name in _TERMS)
        return jnp.asarray(loss), (metrics, stats)

    def _mask_terms(
        self, logits: jax.Array, mask: jax.Array, taught: jax.Array | None, ramp_up: jax.Array
    ) -> Metrics:
        """Of the labelled images, which come first, and of those with a teacher's soft masks."""
        labeled, unlabeled = logits[: len(mask)], logits[len(mask) :]
        terms = {
            "seg/cross_entropy": losses.binary_cross_entropy(logits=labeled, mask=mask).mean(),
            "seg/dice": losses.dice_loss(logits=labeled, mask=mask).mean(),
        }
        if taught is not None:
            entropy = losses.binary_cross_entropy(logits=unlabeled, mask=taught).mean()
            terms["seg/soft_mask"] = self.soft_mask_weight * ramp_up * entropy
        return terms

    def _class_terms(
        self,
        logits: jax.Array,
        batch: Batch,
        taught: jax.Array | None,
        stats: PyTree,
        ramp_up: jax.Array,
    ) -> Metrics:
        """Of the labelled images, which come first, and of those with a teacher's pseudo-labels."""
        label = at(batch, CLS_LABELED)["label"]
        labeled, strong = logits[: len(label)], logits[len(label) :]
        weights = self._class_weights(stats)
        entropy = losses.cross_entropy(logits=labeled, label=label)
        guess, _ = losses.pseudo_labels(labeled, threshold=0.0, exclusive=self.exclusive)
        metrics = {
            "cls/cross_entropy": (_of(weights, label) * entropy).mean(),
            "cls/train_accuracy": (guess == label).mean(),
        }
        if taught is not None:
            aligned = self._aligned(taught, stats)
            confidence: Any = dict(threshold=self.threshold, exclusive=self.exclusive)
            guess, confident = losses.pseudo_labels(aligned, **confidence)
            entropy = losses.pseudo_label_cross_entropy(
                weak_logits=aligned, strong_logits=strong, **confidence
            )
            entropy = (_of(weights, guess) * entropy).mean()
            metrics["cls/pseudo_label"] = self.pseudo_label_weight * ramp_up * entropy
            metrics["cls/accepted"] = confident.mean()
            if "label" in at(batch, CLS_UNLABELED):
                correct = confident & (guess == at(batch, CLS_UNLABELED)["label"])
                metrics["cls/accepted_and_correct"] = correct.mean()
        return metrics

    def views(self, batch: Batch, keys: ExampleKeys) -> dict[str, jax.Array]:
        """The 8-bit images that the networks see of `batch`, by stream and view, to look at."""
        views, taught, _ = self._views(batch, keys)
        seen = {name: at(batch, name)["image"] for name in self.streams}
        seen |= {f"{name}, view": view for name, view in views.items()}
        seen |= {f"{name}, teacher's view": view for name, view in taught.items()}
        return {name: images.round().astype(jnp.uint8) for name, images in seen.items()}

    def _views(
        self, batch: Batch, keys: ExampleKeys
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array], Any]:
        """What the student and the teacher see, by stream, float in 0..255; the labelled masks."""
        views: dict[str, jax.Array] = {}
        taught: dict[str, jax.Array] = {}
        mask = None
        for name in self.streams:
            stream = at(batch, name)
            images = stream["image"].astype(jnp.float32)
            pose = self._pose(keys(f"{name}/pose", len(images)), images, self.pose)
            posed = pose(images)
            if name == SEG_LABELED:
                mask = pose(stream["mask"].astype(jnp.float32))
            elif name == SEG_UNLABELED:
                taught[name] = posed
            elif name == CLS_UNLABELED:
                weak = self._pose(keys(f"{name}/weak_pose", len(images)), images, self.weak_pose)
                taught[name] = weak(images)
            views[name] = self._look(name, posed, keys)
        return views, taught, mask

    def _pose(
        self, keys: jax.Array, images: jax.Array, strength: float
    ) -> Callable[[jax.Array], jax.Array]:
        """What brings images, or their masks, into a pose each."""
        if not self.pose:
            return lambda images: images
        draw = functools.partial(draw_pose, strength=strength)
        poses = jax.vmap(draw, in_axes=(0, None, None))(keys, *images.shape[1:3])
        return functools.partial(jax.vmap(apply_pose), poses)

    def _look(self, name: str, images: jax.Array, keys: ExampleKeys) -> jax.Array:
        if not self.appearance:
            return images
        images = jax.vmap(draw_appearance)(keys(f"{name}/appearance", len(images)), images)
        if name == CLS_UNLABELED:
            images = jax.vmap(cut_out)(keys(f"{name}/hole", len(images)), images)
        return images

    def _teacher(
        self, state: TrainState, views: Mapping[str, jax.Array]
    ) -> tuple[jax.Array | None, jax.Array | None]:
        """Masks of the one unlabelled stream, class logits of the other, where there is one."""
        if not views:
            return None, None
        params = jax.lax.stop_gradient(state.ema_params)
        images = normalize(jnp.concatenate(list(views.values())))
        features = self._apply(params, images, method="encode")
        split = len(views.get(SEG_UNLABELED, ()))
        masks = logits = None
        if SEG_UNLABELED in views:
            levels = [level[:split] for level in features]
            masks = jax.nn.sigmoid(self._segment(params, images[:split], levels, None))
        if CLS_UNLABELED in views:
            logits = self._apply(params, [level[split:] for level in features], method="classify")
        return masks, logits

    def _class_weights(self, stats: PyTree) -> jax.Array | None:
        """[K], of mean 1 over the labels; None where all count the same."""
        if not (self.balance and self.exclusive):
            return None
        labels = stats[_SHARES][_LABELS]
        return 1 / (len(labels) * jnp.maximum(labels, _RARE))

    def _aligned(self, logits: jax.Array, stats: PyTree) -> jax.Array:
        """The teacher's logits as they would be if it guessed as often as the labels have it."""
        if not (self.align and self.exclusive):
            return logits
        shares = stats[_SHARES]
        log = lambda share: jnp.log(jnp.maximum(share, _RARE))
        return logits + (log(shares[_LABELS]) - log(shares[_GUESSES]))[None]

    def _new_shares(self, stats: PyTree, label: jax.Array, logits: jax.Array | None) -> PyTree:
        """The running means after this batch; of the guesses only where a teacher makes some."""
        if not self.exclusive:
            return stats
        shares = dict(stats[_SHARES])
        seen = {_LABELS: jax.nn.one_hot(label, self.model.num_classes)}
        if logits is not None:
            seen[_GUESSES] = jax.nn.softmax(logits)
        for name, found in seen.items():
            rate = 1 - self.shares_decay
            shares[name] = (1 - rate) * shares[name] + rate * found.mean(axis=0)
        return {**stats, _SHARES: shares}


def _of(weights: jax.Array | None, label: jax.Array) -> jax.Array | float:
    """Weight of each example by its class."""
    return 1.0 if weights is None else weights[label]


def make_consistency(
    *, model: Mapping[str, Any], dtype: str, terms: Mapping[str, Any], axis_name: str
) -> ConsistencyObjective:
    """The objective with its network, from plain values; see `ConsistencyObjective`."""
    del axis_name  # means over the devices are taken by the training step
    return ConsistencyObjective(MultiMix(**model, dtype=jnp.dtype(dtype)), **terms)
