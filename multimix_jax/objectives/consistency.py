"""Masks and classes from few labels: the recipe of configs/consistency.py, docs/results.md."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from multimix_jax import losses
from multimix_jax.augment.intensity import augment_intensity, cutout
from multimix_jax.augment.spatial import apply_transform, draw_transform
from multimix_jax.errors import UsageError
from multimix_jax.keys import ExampleKeys
from multimix_jax.names import Component, Stream
from multimix_jax.objectives.base import Batch, Metrics
from multimix_jax.objectives.joint import JointObjective, Views
from multimix_jax.state import TrainState


@dataclasses.dataclass(frozen=True)
class ConsistencyObjective(JointObjective):
    """L = L_seg + class_weight L_cls.

    L_seg = BCE(view(x), y) + Dice(view(x), y) on labelled images, image and mask moved alike
    L_cls = CE(view(x), c) on labelled images
      + pseudo_label_weight r(step) 1(q(c') >= threshold) CE(strong(u), c') on unlabelled ones,
        q = teacher(weak(u)), c' = argmax q

    A view is a spatial and an intensity augmentation (`augment.spatial`, `augment.intensity`), a
    strong one has a hole besides, a weak one is a spatial augmentation of strength `weak_spatial`.
    Images with masks keep their intensities: others cost the masks more than they teach them. The
    teacher is the moving average of the weights (Tarvainen & Valpola 2017), without dropout;
    pseudo-labels are as in FixMatch (Sohn et al. 2020). r = min(step / ramp_up, 1).
    """

    pseudo_label_weight: float = 1.0
    threshold: float = 0.95
    class_weight: float = 1.0  # beside L_seg; with one task alone Adam takes the scale out again
    ramp_up: int = 300  # steps; with 0 or 1 pseudo-labels have their whole weight from the second
    spatial: float = 1.0  # strength; with 0 every image stays as it is, in weak views too
    weak_spatial: float = 0.3
    intensity: bool = True  # whether images with classes change theirs, and strong views get a hole

    switches = (*JointObjective.switches, "objective.spatial", "objective.intensity")
    view_names = dict.fromkeys(Stream, "view")
    weak_name = "teacher's view"

    def check(self) -> None:
        """As `JointObjective` has it; spatial augmentation has a strength of 0 or more."""
        for name in ("spatial", "weak_spatial"):
            if getattr(self, name) < 0:
                raise UsageError(
                    f"objective.{name}={getattr(self, name)}; set it to 0, for no spatial "
                    "augmentation, or more"
                )
        super().check()

    @property
    def has(self) -> dict[Component, bool]:
        return super().has | {
            Component.SPATIAL: self.spatial > 0,
            Component.INTENSITY: self.model.use_classifier and self.intensity,
        }

    @property
    def uses_average(self) -> bool:
        return Stream.CLS_UNLABELED in self.streams

    def _views(self, batch: Batch, keys: ExampleKeys) -> Views:
        # The names of the keys decide the random numbers, and so stay as they are.
        views: dict[Stream, jax.Array] = {}
        mirrored: dict[Stream, Any] = {}
        weak = truth = None
        weak_mirrored: jax.Array | bool = False
        for stream in self.streams:
            images = batch[stream]["image"].astype(jnp.float32)
            move, flags = self._transform(keys(f"{stream}/pose", len(images)), images, self.spatial)
            moved, mirrored[stream] = move(images), flags
            if stream == Stream.SEG_LABELED:
                stored = losses.Truth.of_stored(batch[stream]["mask"], void=self.labels.void)
                truth = stored.moved(move, self.labels.mask_order)
            elif stream == Stream.CLS_UNLABELED:
                weak_keys = keys(f"{stream}/weak_pose", len(images))
                move, weak_mirrored = self._transform(weak_keys, images, self.weak_spatial)
                weak = move(images)
            if self.intensity and stream != Stream.SEG_LABELED:
                own_keys = keys(f"{stream}/appearance", len(images))
                moved = jax.vmap(augment_intensity)(own_keys, moved)
                if stream == Stream.CLS_UNLABELED:
                    moved = jax.vmap(cutout)(keys(f"{stream}/hole", len(images)), moved)
            views[stream] = moved
        return Views(views, weak, truth, mirrored, weak_mirrored)

    def _transform(
        self, keys: jax.Array, images: jax.Array, strength: float
    ) -> tuple[Callable[..., jax.Array], jax.Array | bool]:
        """What moves images, or their masks, each by a spatial transform of its own, channels in
        an order for mirror images; and which images that makes of them, bool [B]."""
        if not self.spatial:
            return lambda images, order=(): images, jnp.zeros(len(images), bool)
        draw = functools.partial(draw_transform, strength=strength, flips=self.labels.may_mirror)
        transforms = jax.vmap(draw, in_axes=(0, None, None))(keys, *images.shape[1:3])
        move = lambda images, order=(): jax.vmap(functools.partial(apply_transform, order=order))(
            transforms, images
        )
        return move, transforms.mirrored

    def _teach(
        self, params: Any, state: TrainState, weak: jax.Array, keys: ExampleKeys
    ) -> jax.Array:
        variables = {"params": jax.lax.stop_gradient(state.ema_params)}
        return self.network.class_logits(variables, weak)

    def _segmentation_terms(self, logits: jax.Array, truth: losses.Truth) -> Metrics:
        entropy = losses.binary_cross_entropy(logits=logits, **truth._asdict())
        dice = losses.dice_loss(logits=logits, **truth._asdict())
        return {"seg/cross_entropy": entropy.mean(), "seg/dice": dice.mean()}

    def _class_weights(self, step: jax.Array) -> dict[str, Any]:
        ramp_up = jnp.minimum(step / max(self.ramp_up, 1), 1.0)
        return {
            "cls/cross_entropy": self.class_weight,
            "cls/pseudo_label": self.class_weight * self.pseudo_label_weight * ramp_up,
        }
