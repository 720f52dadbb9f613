"""The networks of dual-task mutual learning: one of masks, and one of signed distance maps."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from multimix_jax import losses
from multimix_jax.models.multimix import normalize
from multimix_jax.models.unet import UNet
from multimix_jax.models.vnet import VNet
from multimix_jax.names import Head
from multimix_jax.objectives.base import PyTree

TEACHER = "teacher"  # beside the networks' statistics


@dataclasses.dataclass(frozen=True)
class DtmlNetwork:
    """The networks of masks and of distance maps beside each other, as a `Network`.

    Attributes:
      seg: predicts masks.
      sdf: predicts signed distance maps, or None.
      patch: sides of the images that both are given; () for those of the data.
      sharpness: k of `losses.mask_of_distance`.
      has_teacher: whether the weights to predict with are those of a teacher, which has running
        statistics of its own.
    """

    seg: VNet | UNet
    sdf: VNet | UNet | None
    patch: tuple[int, ...] = ()
    sharpness: float = 1500.0
    has_teacher: bool = False

    classifies = False

    @property
    def has_batch_stats(self) -> bool:
        """Only a teacher collects those of averaged weights."""
        return getattr(self.seg, "norm", "") == "batch" and not self.has_teacher

    @property
    def members(self) -> dict[str, VNet | UNet]:
        """The networks by their name among the weights."""
        return {"seg": self.seg} | ({} if self.sdf is None else {"sdf": self.sdf})

    def input_shape(self, size: int) -> tuple[int, ...]:
        """Of one image."""
        return (*(self.patch or (size, size)), 1)

    def init(self, key: jax.Array, size: int) -> PyTree:
        """Variables of both networks."""
        images = jnp.zeros((1, *self.input_shape(size)))
        collected: dict[str, dict[str, Any]] = {}
        for index, (name, net) in enumerate(self.members.items()):
            variables = net.init(jax.random.fold_in(key, index), images)
            for collection, values in variables.items():
                collected.setdefault(collection, {})[name] = values
        if self.has_teacher and "batch_stats" in collected:
            collected["batch_stats"][TEACHER] = dict(collected["batch_stats"])
        return collected

    def predict(
        self, variables: PyTree, images: jax.Array, dropout_keys: jax.Array | None = None
    ) -> dict[Head, jax.Array]:
        """Images [B,(D,)H,W,1] -> probabilities of the mask; of two networks by either and by
        their average, and the distance map."""
        images = as_float(images)
        stats = variables.get("batch_stats", {})
        stats = stats.get(TEACHER, stats)
        outputs = {}
        for name, net in self.members.items():
            own = {"params": variables["params"][name], "batch_stats": stats.get(name, {})}
            output: Any = net.apply(own, images, dropout_keys)
            (outputs[name],) = output.values()
        predicted = {Head.MASK: jax.nn.sigmoid(outputs["seg"])}
        if self.sdf is not None:
            inside = losses.mask_of_distance(outputs["sdf"], self.sharpness)
            predicted[Head.MASK_SDF] = inside
            predicted[Head.MASK_AVERAGE] = (predicted[Head.MASK] + inside) / 2
            predicted[Head.DISTANCE] = outputs["sdf"]
        return predicted

    def class_logits(self, variables: PyTree, images: jax.Array) -> jax.Array:
        """There is no classifier."""
        raise TypeError("DTML has no classifier")

    def train(
        self, name: str, params: Any, stats: Any, images: jax.Array, dropout: jax.Array
    ) -> tuple[jax.Array, Any]:
        """The output of one of the networks in training, and its new statistics."""
        output, updated = self.members[name].apply(
            {"params": params[name], "batch_stats": stats.get(name, {})},
            images,
            dropout,
            train=True,
            mutable=["batch_stats"],
        )
        return next(iter(output.values())), updated.get("batch_stats", {})


def as_float(images: jax.Array) -> jax.Array:
    """8-bit images -> [-1, 1]; others, such as volumes of unit variance, as they are."""
    if images.dtype == jnp.uint8:
        return normalize(images)
    return images.astype(jnp.float32)
