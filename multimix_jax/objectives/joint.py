"""What all methods around the joint network share: its parts, its streams, what it predicts."""

import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp

from multimix_jax import losses
from multimix_jax.errors import UsageError
from multimix_jax.keys import ExampleKeys
from multimix_jax.models.multimix import MultiMix, normalize
from multimix_jax.names import Stream, Task
from multimix_jax.objectives.base import Batch, Metrics, PyTree


@dataclasses.dataclass(frozen=True)
class JointObjective:
    """A classifier and a decoder on one encoder, or one of the two.

    Streams hold `image` [B,H,W,C] of 0..255, `mask` [B,H,W,mask_channels] of 0/1 in seg/labeled,
    `label` [B] (or, not exclusive, [B,K]) in cls/labeled. In cls/unlabeled a `label` is read by a
    metric only; -1 means unknown.

    Attributes:
      model: which parts it has decides which tasks are trained.
      exclusive: whether an image has one class; else any of them, each by itself, and `label` is
        [B,K] of 0 and 1.
      mirror: whether predictions are means over an image and its mirror image.
      pseudo_label_weight: 0 leaves the term out.
      threshold: confidence in [0, 1] from which a pseudo-label counts.
    """

    model: MultiMix
    exclusive: bool = True
    mirror: bool = False
    pseudo_label_weight: float = 0.25
    threshold: float = 0.7

    def checked(self) -> Self:
        """Itself.

        Raises:
          UsageError: there is nothing to train, or a number is out of its range. Made directly, an
            objective may hold traced numbers, which nothing can check.
        """
        if not (self.model.use_classifier or self.model.use_decoder):
            raise UsageError(
                "neither model.use_classifier nor model.use_decoder is on; set one to True"
            )
        if not 0 <= self.threshold <= 1:
            raise UsageError(
                f"objective.threshold={self.threshold} is no probability; set it from 0 to 1"
            )
        return self

    @property
    def unlabeled(self) -> tuple[bool, bool]:
        """Whether unlabelled images teach to segment, and whether they teach to classify."""
        raise NotImplementedError

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams that a batch must hold."""
        model, names = self.model, []
        seg, cls = self.unlabeled
        if model.use_decoder:
            names += [Stream.SEG_LABELED, Stream.SEG_UNLABELED] if seg else [Stream.SEG_LABELED]
        if model.use_classifier:
            names += [Stream.CLS_LABELED, Stream.CLS_UNLABELED] if cls else [Stream.CLS_LABELED]
        return tuple(names)

    @property
    def parts(self) -> tuple[str, ...]:
        """What it consists of."""
        return tuple(name for name, there in self._parts().items() if there)

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

    def _parts(self) -> dict[str, bool]:
        """Which of the parts that all methods share there are."""
        model = self.model
        return {
            "classifier": model.use_classifier,
            "decoder": model.use_decoder,
            "bridge": model.use_bridge,
            "gradient through the bridge": model.use_bridge and model.bridge_gradient,
            "pseudo-labels": Stream.CLS_UNLABELED in self.streams,
        }

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
        return images, features, sum(len(v) for name, v in views.items() if name.task == Task.SEG)

    def _segment(
        self, params: PyTree, images: jax.Array, features: Any, dropout: jax.Array | None
    ) -> jax.Array:
        """Mask logits of normalised images, with saliency where there is a bridge."""
        saliency = None
        if self.model.use_bridge:
            saliency = self._apply(params, images, method="saliency")
        return self._apply(params, images, features, saliency, dropout, method="segment")

    def _classification(
        self, logits: jax.Array, batch: Batch, taught: jax.Array | None
    ) -> tuple[Metrics, Metrics]:
        """Terms, before they are weighted, and what to watch.

        Args:
          logits: [B,K] of the labelled images, then of the unlabelled ones' strong views, if any.
          batch: the streams.
          taught: logits [B,K] that weak views give the pseudo-labels by, None for none.
        """
        label = batch[Stream.CLS_LABELED]["label"]
        labeled, strong = logits[: len(label)], logits[len(label) :]
        terms = {"cls/cross_entropy": losses.cross_entropy(logits=labeled, label=label).mean()}
        monitors = {"cls/train_accuracy": (self._pseudo_labels(labeled)[0] == label).mean()}
        if taught is not None:
            terms["cls/pseudo_label"] = losses.pseudo_label_cross_entropy(
                weak_logits=taught,
                strong_logits=strong,
                threshold=self.threshold,
                multi_label=not self.exclusive,
            ).mean()
            guessed, accepted = self._pseudo_labels(taught)
            monitors["cls/accepted"] = accepted.mean()
            if "label" in batch[Stream.CLS_UNLABELED]:
                correct = accepted & (guessed == batch[Stream.CLS_UNLABELED]["label"])
                monitors["cls/accepted_and_correct"] = correct.mean()
        return terms, monitors

    def _pseudo_labels(self, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        return losses.pseudo_labels(
            logits, threshold=self.threshold, multi_label=not self.exclusive
        )

    def _apply(self, params: Any, *args: Any, method: str) -> Any:
        return self.model.apply({"params": params}, *args, method=method)


def dropout_keys(keys: ExampleKeys, part: str, views: Batch) -> jax.Array:
    """A key for each image of each of `views` (arrays by stream), in their order."""
    return keys.several({f"{name}/{part}": len(view) for name, view in views.items()})
