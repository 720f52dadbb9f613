"""Masks and classes from few labels: views of every image, and a moving-average teacher of classes.

The recipe of configs/best.py; docs/results.md says what each part is worth.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp

from multimix_jax import losses
from multimix_jax.augment.intensity import augment_intensity, cutout
from multimix_jax.augment.spatial import apply_transform, draw_transform
from multimix_jax.errors import UsageError
from multimix_jax.keys import ExampleKeys
from multimix_jax.models.multimix import MultiMix, normalize
from multimix_jax.names import Stream
from multimix_jax.objectives.base import Batch, Metrics
from multimix_jax.objectives.joint import (
    JointObjective,
    dropout_keys,
)
from multimix_jax.state import TrainState


@dataclasses.dataclass(frozen=True)
class ConsistencyObjective(JointObjective):
    """L = L_seg + class_weight L_cls.

    L_seg = BCE(posed(x), y) + Dice(posed(x), y) on labelled images, image and mask in one pose
    L_cls = CE(view(x), c) on labelled images
      + pseudo_label_weight r(step) 1(q(c') >= threshold) CE(strong(u), c') on unlabelled ones,
        q = teacher(weak(u)), c' = argmax q

    A view is a pose (`spatial.py`) and a look (`intensity.py`), a strong one has a hole besides
    (`cutout`), a weak one is a pose of `weak_pose`. Images with masks keep their look: another
    one costs the masks more than it teaches them. The teacher is the moving average of the
    weights (Tarvainen & Valpola 2017), without dropout; pseudo-labels are as in FixMatch (Sohn et
    al. 2020). r = min(step / ramp_up, 1).

    Attributes:
      model, exclusive, mirror, pseudo_label_weight, threshold: see `JointObjective`.
      class_weight: of L_cls beside L_seg; with one task alone Adam takes the scale out again.
      ramp_up: steps until pseudo-labels have their whole weight; with 0 or 1 from the second on.
      pose, weak_pose: strength of the poses, see `draw_transform`; of a weak view. A `pose` of 0
        leaves every image as it is, mirror images and weak views too.
      appearance: whether views of the classes' images have a look of their own, and strong ones a
        hole.
    """

    pseudo_label_weight: float = 1.0
    threshold: float = 0.95
    class_weight: float = 1.0
    ramp_up: int = 300
    pose: float = 1.0
    weak_pose: float = 0.3
    appearance: bool = True

    def checked(self) -> Self:
        """As `JointObjective` has it; poses have a strength of 0 or more."""
        for name in ("pose", "weak_pose"):
            if getattr(self, name) < 0:
                raise UsageError(
                    f"objective.{name}={getattr(self, name)}; set it to 0, for no poses, or more"
                )
        return super().checked()

    @property
    def unlabeled(self) -> tuple[bool, bool]:
        """By pseudo-labels alone."""
        return False, self.pseudo_label_weight > 0

    def _parts(self) -> dict[str, bool]:
        return {
            **super()._parts(),
            "pose": self.pose > 0,
            "appearance": self.model.use_classifier and self.appearance,
        }

    @property
    def uses_average(self) -> bool:
        """The teacher is the moving average of the weights."""
        return Stream.CLS_UNLABELED in self.streams

    def __call__(
        self, params: Any, state: TrainState, batch: Batch, keys: ExampleKeys
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """Loss of one batch: scalar, (terms and other metrics, batch statistics)."""
        views, weak, mask = self._views(batch, keys)
        taught = self._teacher(state, weak)
        ramp_up = jnp.minimum(state.step / max(self.ramp_up, 1), 1.0)
        images, features, split = self._encode(params, views, keys)

        terms: Metrics = {}
        monitors: Metrics = {}
        if self.model.use_decoder:
            levels = [level[:split] for level in features]
            dropout = dropout_keys(keys, "decoder", views)[:split]
            logits = self._segment(params, images[:split], levels, dropout)
            entropy = losses.binary_cross_entropy(logits=logits, mask=mask)
            terms["seg/cross_entropy"] = entropy.mean()
            terms["seg/dice"] = losses.dice_loss(logits=logits, mask=mask).mean()
        if self.model.use_classifier:
            logits = self._apply(params, [level[split:] for level in features], method="classify")
            found, monitors = self._classification(logits, batch, taught)
            weights: dict[str, Any] = {
                "cls/cross_entropy": self.class_weight,
                "cls/pseudo_label": self.class_weight * self.pseudo_label_weight * ramp_up,
            }
            terms |= {name: weights[name] * value for name, value in found.items()}
        return jnp.asarray(sum(terms.values())), ({**terms, **monitors}, state.batch_stats)

    def views(self, batch: Batch, keys: ExampleKeys) -> dict[str, jax.Array]:
        """The 8-bit images that the networks see of `batch`, by stream and view, to look at."""
        views, weak, _ = self._views(batch, keys)
        seen = {name: batch[name]["image"] for name in self.streams}
        seen |= {f"{name}, view": view for name, view in views.items()}
        if weak is not None:
            seen[f"{Stream.CLS_UNLABELED}, teacher's view"] = weak
        return {name: images.round().astype(jnp.uint8) for name, images in seen.items()}

    def _views(self, batch: Batch, keys: ExampleKeys) -> tuple[dict[str, jax.Array], Any, Any]:
        """What the student sees, by stream, and the teacher, float in 0..255; the masks."""
        views: dict[str, jax.Array] = {}
        weak = mask = None
        for name in self.streams:
            stream = batch[name]
            images = stream["image"].astype(jnp.float32)
            pose = self._pose(keys(f"{name}/pose", len(images)), images, self.pose)
            posed = pose(images)
            if name == Stream.SEG_LABELED:
                mask = pose(stream["mask"].astype(jnp.float32))
            elif name == Stream.CLS_UNLABELED:
                drawn = keys(f"{name}/weak_pose", len(images))
                weak = self._pose(drawn, images, self.weak_pose)(images)
            views[name] = self._look(name, posed, keys)
        return views, weak, mask

    def _pose(
        self, keys: jax.Array, images: jax.Array, strength: float
    ) -> Callable[[jax.Array], jax.Array]:
        """What brings images, or their masks, into a pose each."""
        if not self.pose:
            return lambda images: images
        draw = functools.partial(draw_transform, strength=strength)
        poses = jax.vmap(draw, in_axes=(0, None, None))(keys, *images.shape[1:3])
        return functools.partial(jax.vmap(apply_transform), poses)

    def _look(self, name: str, images: jax.Array, keys: ExampleKeys) -> jax.Array:
        if not self.appearance or name == Stream.SEG_LABELED:
            return images
        images = jax.vmap(augment_intensity)(keys(f"{name}/appearance", len(images)), images)
        if name == Stream.CLS_UNLABELED:
            images = jax.vmap(cutout)(keys(f"{name}/hole", len(images)), images)
        return images

    def _teacher(self, state: TrainState, images: jax.Array | None) -> jax.Array | None:
        """Class logits of the unlabelled images, where there are some."""
        if images is None:
            return None
        params = jax.lax.stop_gradient(state.ema_params)
        features = self._apply(params, normalize(images), method="encode")
        return self._apply(params, features, method="classify")


def make_consistency(
    *, model: Mapping[str, Any], dtype: str, terms: Mapping[str, Any], axis_name: str
) -> ConsistencyObjective:
    """The objective with its network, from plain values; see `ConsistencyObjective`."""
    del axis_name  # means over the devices are taken by the training step
    return ConsistencyObjective(MultiMix(**model, dtype=jnp.dtype(dtype)), **terms).checked()
