"""What the methods around the joint network share: the network, its streams, the classes' terms."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp

from multimix_jax import losses
from multimix_jax.errors import UsageError
from multimix_jax.keys import ExampleKeys
from multimix_jax.labels import LabelSpec
from multimix_jax.models.multimix import MultiMix, normalize
from multimix_jax.names import Component, Head, Stream, Task
from multimix_jax.objectives.base import Batch, Metrics, PyTree, make_checked

SWITCHES = (
    "ema_decay",
    "model.use_classifier",
    "model.use_decoder",
    "model.use_bridge",
    "model.bridge_gradient",
    "objective.pseudo_label_weight",
)


@dataclasses.dataclass(frozen=True)
class JointNetwork:
    """`MultiMix` as a `Network`.

    Attributes:
      model: with a classifier, a decoder or both.
      multi_label: whether an image has any number of classes, each with a probability of its own.
    """

    model: MultiMix
    multi_label: bool = False

    has_batch_stats = False

    @property
    def classifies(self) -> bool:
        return self.model.use_classifier

    def input_shape(self, size: int) -> tuple[int, ...]:
        """Of one image."""
        return size, size, self.model.in_channels

    def init(self, key: jax.Array, size: int) -> PyTree:
        """Variables for images of `size` x `size`."""
        return self.model.init(key, jnp.zeros((1, *self.input_shape(size))))

    def predict(
        self, variables: PyTree, images: jax.Array, dropout_keys: jax.Array | None = None
    ) -> dict[Head, jax.Array]:
        """8-bit images [B,H,W,C] -> probabilities: masks [B,H,W,C'], classes [B,K]."""
        params = {"params": variables["params"]}
        output: Any = self.model.apply(params, normalize(images), dropout_keys)
        probabilities = {}
        if output.mask_logits is not None:
            probabilities[Head.MASK] = jax.nn.sigmoid(output.mask_logits)
        if output.class_logits is not None:
            activation = jax.nn.sigmoid if self.multi_label else jax.nn.softmax
            probabilities[Head.CLASSES] = activation(output.class_logits)
        return probabilities

    def class_logits(self, variables: PyTree, images: jax.Array) -> jax.Array:
        """Images [B,H,W,C] in [-1, 1] -> [B,K]."""
        params = {"params": variables["params"]}
        features: Any = self.model.apply(params, images, method="encode")
        logits: Any = self.model.apply(params, features, method="classify")
        return logits


@dataclasses.dataclass(frozen=True)
class JointObjective:
    """A classifier and a decoder on one encoder, or one of the two.

    Streams hold `image` [B,H,W,C] of 0..255, `mask` [B,H,W,mask_channels] of 0/1 in seg/labeled,
    `label` [B] (or, multi-label, [B,K]) in cls/labeled. In cls/unlabeled a `label` is read by a
    metric only; -1 means unknown.

    Attributes:
      model: which parts it has decides which tasks are trained.
      multi_label: whether an image has any number of classes, and `label` is [B,K] of 0 and 1; else
        it has one.
      pseudo_label_weight: 0 leaves the term out.
      threshold: confidence in [0, 1] from which a pseudo-label counts.
    """

    model: MultiMix
    multi_label: bool = False
    pseudo_label_weight: float = 0.25
    threshold: float = 0.7

    @classmethod
    def of_config(
        cls,
        model: Mapping[str, Any],
        dtype: str,
        terms: Mapping[str, Any],
        labels: LabelSpec,
        axis_name: str = "",
    ) -> Self:
        """The objective with its network, from plain values; see `objectives.make_objective`.

        Nothing in it needs the other devices of `axis_name`.

        Raises:
          UsageError: a field is unknown, there is nothing to train, or a number is out of its
            range.
        """
        attributes = dict(model)
        if attributes.get("num_classes") == 0:
            attributes["num_classes"] = max(1, len(labels.class_names))
        if attributes.get("mask_channels") == 0:
            attributes["mask_channels"] = labels.mask_channels
        network = make_checked(MultiMix, "model", **attributes, dtype=jnp.dtype(dtype))
        made = make_checked(
            cls, "objective", model=network, multi_label=labels.multi_label, **terms
        )
        made.check()
        return made

    def check(self) -> None:
        """Raises UsageError where there is nothing to train, or a number is out of its range.

        Made directly, an objective may hold traced numbers, which nothing can check.
        """
        if not (self.model.use_classifier or self.model.use_decoder):
            raise UsageError(
                "neither model.use_classifier nor model.use_decoder is on; set one to True"
            )
        if not 0 <= self.threshold <= 1:
            raise UsageError(
                f"objective.threshold={self.threshold} is no probability; set it from 0 to 1"
            )

    @property
    def network(self) -> JointNetwork:
        """What is trained and predicts."""
        return JointNetwork(self.model, self.multi_label)

    def learns_unlabeled(self, task: Task) -> bool:
        """Whether unlabelled images teach a task."""
        return task == Task.CLS and self.pseudo_label_weight > 0

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams that a batch must hold."""
        trained = {Task.SEG: self.model.use_decoder, Task.CLS: self.model.use_classifier}
        return tuple(
            stream
            for stream in Stream
            if trained[stream.task] and (stream.labeled or self.learns_unlabeled(stream.task))
        )

    @property
    def components(self) -> tuple[Component, ...]:
        """What it consists of."""
        model = self.model
        has = {
            Component.CLASSIFIER: model.use_classifier,
            Component.DECODER: model.use_decoder,
            Component.BRIDGE: model.use_bridge,
            Component.BRIDGE_GRADIENT: model.use_bridge and model.bridge_gradient,
            Component.PSEUDO_LABELS: Stream.CLS_UNLABELED in self.streams,
        }
        return tuple(component for component, there in has.items() if there)

    def _encode(
        self, params: PyTree, views: Mapping[Stream, jax.Array], keys: ExampleKeys
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
        return images, features, sum(len(v) for s, v in views.items() if s.task == Task.SEG)

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
                multi_label=self.multi_label,
            ).mean()
            guessed, accepted = self._pseudo_labels(taught)
            monitors["cls/accepted"] = accepted.mean()
            if "label" in batch[Stream.CLS_UNLABELED]:
                correct = accepted & (guessed == batch[Stream.CLS_UNLABELED]["label"])
                monitors["cls/accepted_and_correct"] = correct.mean()
        return terms, monitors

    def _pseudo_labels(self, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        return losses.pseudo_labels(logits, threshold=self.threshold, multi_label=self.multi_label)

    def _apply(self, params: Any, *args: Any, method: str) -> Any:
        return self.model.apply({"params": params}, *args, method=method)


def dropout_keys(keys: ExampleKeys, part: str, views: Mapping[Any, jax.Array]) -> jax.Array:
    """A key for each image of each of `views` (arrays by stream), in their order."""
    return keys.several({f"{name}/{part}": len(view) for name, view in views.items()})
