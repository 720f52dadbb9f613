"""What all methods around the joint network share: its parts, its streams, what it predicts."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from multimix_jax.keys import ExampleKeys
from multimix_jax.models.multimix import MultiMix, normalize
from multimix_jax.objectives.base import Batch, PyTree

SEG_LABELED = "seg/labeled"
SEG_UNLABELED = "seg/unlabeled"
CLS_LABELED = "cls/labeled"
CLS_UNLABELED = "cls/unlabeled"


@dataclasses.dataclass(frozen=True)
class JointObjective:
    """A classifier and a decoder on one encoder, or one of the two.

    Attributes:
      model: which parts it has decides which tasks are trained.
      exclusive: whether an image has one class; else any of them, each by itself, and `label` is
        [B,K] of 0 and 1.
      mirror: whether predictions are means over an image and its mirror image.
    """

    model: MultiMix
    exclusive: bool = True
    mirror: bool = False

    @property
    def unlabeled(self) -> tuple[bool, bool]:
        """Whether unlabelled images teach to segment, and whether they teach to classify."""
        raise NotImplementedError

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams that a batch must hold: `batch['seg']['labeled']`, ..."""
        model, names = self.model, []
        seg, cls = self.unlabeled
        if model.use_decoder:
            names += [SEG_LABELED, SEG_UNLABELED] if seg else [SEG_LABELED]
        if model.use_classifier:
            names += [CLS_LABELED, CLS_UNLABELED] if cls else [CLS_LABELED]
        return tuple(names)

    @property
    def can_average(self) -> bool:
        """It has no running statistics of batch norm."""
        return True

    def input_shape(self, size: int) -> tuple[int, ...]:
        """Of one image."""
        return size, size, self.model.in_channels

    def init(self, key: jax.Array, size: int) -> PyTree:
        """Variables for images of `size` x `size`."""
        return self.model.init(key, jnp.zeros((1, *self.input_shape(size))))

    def predict(
        self, variables: PyTree, images: jax.Array, dropout_keys: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """8-bit images [B,H,W,C] -> probabilities `mask` [B,H,W,C'], `classes` [B,K], if any."""
        found = self._predict(variables, images, dropout_keys)
        if not self.mirror:
            return found
        mirrored = self._predict(variables, images[:, :, ::-1], dropout_keys)
        if "mask" in mirrored:
            mirrored["mask"] = mirrored["mask"][:, :, ::-1]
        return {name: (found[name] + mirrored[name]) / 2 for name in found}

    def _predict(
        self, variables: PyTree, images: jax.Array, dropout_keys: jax.Array | None
    ) -> dict[str, jax.Array]:
        params = {"params": variables["params"]}
        output: Any = self.model.apply(params, normalize(images), dropout_keys)
        probabilities = {}
        if output.mask_logits is not None:
            probabilities["mask"] = jax.nn.sigmoid(output.mask_logits)
        if output.class_logits is not None:
            probabilities["classes"] = self.class_probabilities(output.class_logits)
        return probabilities

    def class_probabilities(self, logits: jax.Array) -> jax.Array:
        """[B,K] -> [B,K]."""
        return jax.nn.softmax(logits) if self.exclusive else jax.nn.sigmoid(logits)

    def saliency(self, variables: PyTree, images: jax.Array) -> jax.Array | None:
        """8-bit images -> saliency [B,H,W,1], or None without a classifier."""
        if not self.model.use_classifier:
            return None
        return self._apply(variables["params"], normalize(images), method="saliency")

    def class_logits(self, variables: PyTree, images: jax.Array) -> jax.Array | None:
        """Images of 0..255 -> class logits [B,K], or None without a classifier."""
        if not self.model.use_classifier:
            return None
        features = self._apply(variables["params"], normalize(images), method="encode")
        return self._apply(variables["params"], features, method="classify")

    def _encode(
        self, params: PyTree, views: Batch, keys: ExampleKeys
    ) -> tuple[jax.Array, Any, int]:
        """One call of the encoder for all views of 0..255 that carry a gradient.

        Returns:
          The normalised images, those to segment first; their features of every level; how many of
          them are to segment.
        """
        images = normalize(jnp.concatenate(list(views.values())))
        features = self._apply(
            params, images, dropout_keys(keys, "encoder", views), method="encode"
        )
        return images, features, sum(len(v) for name, v in views.items() if name.startswith("seg/"))

    def _segment(
        self, params: PyTree, images: jax.Array, features: Any, dropout: jax.Array | None
    ) -> jax.Array:
        """Mask logits of normalised images, with saliency where there is a bridge."""
        saliency = None
        if self.model.use_bridge:
            saliency = self._apply(params, images, method="saliency")
        return self._apply(params, images, features, saliency, dropout, method="segment")

    def _apply(self, params: Any, *args: Any, method: str) -> Any:
        return self.model.apply({"params": params}, *args, method=method)


def at(batch: Batch, name: str) -> Batch:
    """`batch['seg']['labeled']` for 'seg/labeled'."""
    task, kind = name.split("/")
    return batch[task][kind]


def dropout_keys(keys: ExampleKeys, part: str, views: Batch) -> jax.Array:
    """A key for each image of each of `views` (arrays by stream), in their order."""
    return jnp.concatenate([keys(f"{name}/{part}", len(view)) for name, view in views.items()])
