"""Masks and classes from few labels: views of every image, and a moving-average teacher of classes.

The recipe of configs/consistency.py; docs/results.md says what each part is worth.
"""

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
from multimix_jax.models.multimix import normalize
from multimix_jax.names import Component, Stream
from multimix_jax.objectives.base import Batch, Method, Metrics
from multimix_jax.objectives.joint import (
    SWITCHES,
    JointObjective,
    dropout_keys,
)
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

    Attributes:
      model, multi_label, pseudo_label_weight, threshold: see `JointObjective`.
      class_weight: of L_cls beside L_seg; with one task alone Adam takes the scale out again.
      ramp_up: steps until pseudo-labels have their whole weight; with 0 or 1 from the second on.
      spatial, weak_spatial: strength of the spatial augmentation; of a weak view. With a `spatial`
        of 0 every image stays as it is, in weak views too.
      intensity: whether images with classes have intensities drawn anew, and strong views a hole.
    """

    pseudo_label_weight: float = 1.0
    threshold: float = 0.95
    class_weight: float = 1.0
    ramp_up: int = 300
    spatial: float = 1.0
    weak_spatial: float = 0.3
    intensity: bool = True

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
    def components(self) -> tuple[Component, ...]:
        """What it consists of."""
        spatial = (Component.SPATIAL,) if self.spatial > 0 else ()
        intensity = (Component.INTENSITY,) if self.model.use_classifier and self.intensity else ()
        return (*super().components, *spatial, *intensity)

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
            class_terms, monitors = self._classification(logits, batch, taught)
            weights: dict[str, Any] = {
                "cls/cross_entropy": self.class_weight,
                "cls/pseudo_label": self.class_weight * self.pseudo_label_weight * ramp_up,
            }
            terms |= {name: weights[name] * value for name, value in class_terms.items()}
        return jnp.asarray(sum(terms.values())), ({**terms, **monitors}, state.batch_stats)

    def views(self, batch: Batch, keys: ExampleKeys) -> dict[str, jax.Array]:
        """The 8-bit images that the networks see of `batch`, by stream and view, to look at."""
        views, weak, _ = self._views(batch, keys)
        shown = {str(stream): batch[stream]["image"] for stream in self.streams}
        shown |= {f"{stream}, view": view for stream, view in views.items()}
        if weak is not None:
            shown[f"{Stream.CLS_UNLABELED}, teacher's view"] = weak
        return {name: images.round().astype(jnp.uint8) for name, images in shown.items()}

    def _views(self, batch: Batch, keys: ExampleKeys) -> tuple[dict[Stream, jax.Array], Any, Any]:
        """What the student sees, by stream, and the teacher, float in 0..255; the masks.

        The names of the keys decide the random numbers, and so stay as they are.
        """
        views: dict[Stream, jax.Array] = {}
        weak = mask = None
        for stream in self.streams:
            images = batch[stream]["image"].astype(jnp.float32)
            transform = self._transform(keys(f"{stream}/pose", len(images)), images, self.spatial)
            moved = transform(images)
            if stream == Stream.SEG_LABELED:
                mask = transform(batch[stream]["mask"].astype(jnp.float32))
            elif stream == Stream.CLS_UNLABELED:
                weak_keys = keys(f"{stream}/weak_pose", len(images))
                weak = self._transform(weak_keys, images, self.weak_spatial)(images)
            views[stream] = self._augment_intensity(stream, moved, keys)
        return views, weak, mask

    def _transform(
        self, keys: jax.Array, images: jax.Array, strength: float
    ) -> Callable[[jax.Array], jax.Array]:
        """What moves images, or their masks, each by a spatial transform of its own."""
        if not self.spatial:
            return lambda images: images
        draw = functools.partial(draw_transform, strength=strength)
        transforms = jax.vmap(draw, in_axes=(0, None, None))(keys, *images.shape[1:3])
        return functools.partial(jax.vmap(apply_transform), transforms)

    def _augment_intensity(self, stream: Stream, images: jax.Array, keys: ExampleKeys) -> jax.Array:
        if not self.intensity or stream == Stream.SEG_LABELED:
            return images
        images = jax.vmap(augment_intensity)(keys(f"{stream}/appearance", len(images)), images)
        if stream == Stream.CLS_UNLABELED:
            images = jax.vmap(cutout)(keys(f"{stream}/hole", len(images)), images)
        return images

    def _teacher(self, state: TrainState, images: jax.Array | None) -> jax.Array | None:
        """Class logits of the unlabelled images, where there are some."""
        if images is None:
            return None
        variables = {"params": jax.lax.stop_gradient(state.ema_params)}
        return self.network.class_logits(variables, normalize(images))


METHOD = Method(
    ConsistencyObjective.of_config, switches=(*SWITCHES, "objective.spatial", "objective.intensity")
)
