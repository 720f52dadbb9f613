"""What the methods around the joint network share: network, streams, and the loss in outline."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp

from multimix_jax import losses
from multimix_jax.augment.spatial import reorder
from multimix_jax.errors import UsageError
from multimix_jax.keys import ExampleKeys
from multimix_jax.labels import LabelSpec
from multimix_jax.models.multimix import MultiMix, normalize
from multimix_jax.names import Component, Head, Stream, Task
from multimix_jax.objectives.base import (
    Batch,
    Metrics,
    Network,
    Objective,
    ObjectiveSpec,
    PyTree,
    make_checked,
)
from multimix_jax.objectives.checks import check_batch
from multimix_jax.state import TrainState


class Views(NamedTuple):
    """What a network sees of a batch: images of 0..255."""

    images: dict[Stream, jax.Array]  # where a gradient flows
    weak: jax.Array | None  # those that give the pseudo-labels
    truth: losses.Truth | None  # masks of the labelled ones, as seen
    # Which are mirror images, bool [B] by stream, and of the weak ones; only where it matters.
    mirrored: dict[Stream, Any]
    weak_mirrored: jax.Array | bool = False


@dataclasses.dataclass(frozen=True)
class JointNetwork(Network):
    """`MultiMix` as a `Network`, with a classifier, a decoder or both."""

    model: MultiMix
    multi_label: bool = False  # whether an image has any number of classes

    @property
    def classifies(self) -> bool:
        return self.model.use_classifier

    def input_shape(self, size: int) -> tuple[int, ...]:
        return size, size, self.model.in_channels

    def init(self, key: jax.Array, size: int) -> PyTree:
        return self.model.init(key, jnp.zeros((1, *self.input_shape(size))))

    def predict(
        self, variables: PyTree, images: jax.Array, dropout_keys: jax.Array | None = None
    ) -> dict[Head, jax.Array]:
        """8-bit images [B,H,W,C] -> probabilities: masks [B,H,W,C'], classes [B,K]."""
        output: Any = self.model.apply(variables, normalize(images), dropout_keys)
        probabilities = {}
        if output.mask_logits is not None:
            probabilities[Head.MASK] = jax.nn.sigmoid(output.mask_logits)
        if output.class_logits is not None:
            activation = jax.nn.sigmoid if self.multi_label else jax.nn.softmax
            probabilities[Head.CLASSES] = activation(output.class_logits)
        return probabilities

    def class_logits(
        self, variables: PyTree, images: jax.Array, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Images [B,H,W,C] in [-1, 1] -> [B,K]."""
        features: Any = self.model.apply(variables, images, dropout_keys, method="encode")
        logits: Any = self.model.apply(variables, features, method="classify")
        return logits


@dataclasses.dataclass(frozen=True)
class JointObjective(Objective):
    """A classifier and a decoder on one encoder, or one of the two.

    Which parts the model has decides which tasks are trained. Streams hold `image` [B,H,W,C] of
    0..255, `mask` [B,H,W,mask_channels] of 0/1 (and, where `labels.void`, VOID) in seg/labeled,
    `label` [B] (or, multi-label, [B,K] of 0 and 1, -1 where unknown) in cls/labeled. In
    cls/unlabeled a `label` is read by a metric only; -1 is unknown.
    """

    model: MultiMix
    multi_label: bool = False  # whether an image has any number of classes
    labels: LabelSpec = LabelSpec()  # what changes places in a mirror image, and what is void
    pseudo_label_weight: float = 0.25  # 0 leaves the term out
    threshold: float = 0.7  # confidence in [0, 1] from which a pseudo-label counts

    switches: ClassVar[tuple[str, ...]] = (
        "ema_decay",
        "model.use_classifier",
        "model.use_decoder",
        "model.use_bridge",
        "model.bridge_gradient",
        "objective.pseudo_label_weight",
    )
    view_names: ClassVar[Mapping[Stream, str]]  # of those that `views` shows
    weak_name: ClassVar[str]  # of the view that gives the pseudo-labels

    @classmethod
    def of_config(cls, spec: ObjectiveSpec, labels: LabelSpec) -> Self:
        attributes = dict(spec.model)
        if attributes.get("num_classes") == 0:
            attributes["num_classes"] = max(1, len(labels.class_names))
        if attributes.get("mask_channels") == 0:
            attributes["mask_channels"] = labels.mask_channels
        network = make_checked(MultiMix, "model", **attributes, dtype=jnp.dtype(spec.dtype))
        fixed = dict(model=network, multi_label=labels.multi_label, labels=labels)
        made = make_checked(cls, "objective", **fixed, **spec.objective)
        made.check()
        return made

    def check(self) -> None:
        """Raises UsageError where there is nothing to train, or a number is out of its range. Made
        directly, an objective may hold traced numbers, which nothing can check."""
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
        return JointNetwork(self.model, self.multi_label)

    @property
    def streams(self) -> tuple[Stream, ...]:
        teaches = {
            Stream.SEG_LABELED: Component.DECODER,
            Stream.SEG_UNLABELED: Component.KL,
            Stream.CLS_LABELED: Component.CLASSIFIER,
            Stream.CLS_UNLABELED: Component.PSEUDO_LABELS,
        }
        return tuple(stream for stream, part in teaches.items() if self.has.get(part, False))

    @property
    def has(self) -> dict[Component, bool]:
        model = self.model
        return {
            Component.CLASSIFIER: model.use_classifier,
            Component.DECODER: model.use_decoder,
            Component.BRIDGE: model.use_bridge,
            Component.BRIDGE_GRADIENT: model.use_bridge and model.bridge_gradient,
            Component.PSEUDO_LABELS: model.use_classifier and self.pseudo_label_weight > 0,
        }

    def _views(self, batch: Batch, keys: ExampleKeys) -> Views:
        raise NotImplementedError

    def _teach(
        self, params: PyTree, state: TrainState, weak: jax.Array, keys: ExampleKeys
    ) -> jax.Array:
        """Class logits [B,K] of normalised images that give the pseudo-labels."""
        raise NotImplementedError

    def _segmentation_terms(self, logits: jax.Array, truth: losses.Truth) -> Metrics:
        """Weighted terms, by mask logits of the labelled images, then of any unlabelled ones."""
        raise NotImplementedError

    def _class_weights(self, step: jax.Array) -> dict[str, Any]:
        """By term of the classes."""
        return {"cls/cross_entropy": 1.0, "cls/pseudo_label": self.pseudo_label_weight}

    def check_batch(self, batch: Batch) -> None:
        """See `Objective`."""
        check_batch(
            batch,
            self,
            mask_channels=self.model.mask_channels,
            num_classes=self.model.num_classes,
            multi_label=self.multi_label,
        )

    def __call__(
        self, params: Any, state: TrainState, batch: Batch, keys: ExampleKeys
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """Loss of one batch: scalar, (terms and other metrics, batch statistics)."""
        self.check_batch(batch)
        views, weak, truth, mirrored, weak_mirrored = self._views(batch, keys)
        order = self.labels.class_order  # all classes are compared as of images as they are
        taught = None
        if weak is not None:
            taught = self._teach(params, state, normalize(weak), keys)
            taught = reorder(taught, order, jnp.expand_dims(weak_mirrored, -1))
        # One call of the encoder for all views, those to segment first.
        images = normalize(jnp.concatenate(list(views.values())))
        dropout = dropout_keys(keys, "encoder", views)
        features = self._apply(params, images, dropout, method="encode")
        split = sum(len(view) for stream, view in views.items() if stream.task == Task.SEG)

        terms: Metrics = {}
        monitors: Metrics = {}
        if truth is not None:
            images, levels = images[:split], [level[:split] for level in features]
            saliency = self._apply(params, images, method="saliency")
            dropout = dropout_keys(keys, "decoder", views)[:split]
            logits = self._apply(params, images, levels, saliency, dropout, method="segment")
            terms |= self._segmentation_terms(logits, truth)
        if self.model.use_classifier:
            logits = self._apply(params, [level[split:] for level in features], method="classify")
            if order:
                flags = [mirrored[stream] for stream in views if stream.task == Task.CLS]
                logits = reorder(logits, order, jnp.concatenate(flags)[:, None])
            class_terms, monitors = self._classification(logits, batch, taught)
            weights = self._class_weights(state.step)
            terms |= {name: weights[name] * value for name, value in class_terms.items()}
        return jnp.asarray(sum(terms.values())), ({**terms, **monitors}, state.batch_stats)

    def views(self, batch: Batch, keys: ExampleKeys) -> dict[str, jax.Array]:
        """The 8-bit images that the network sees of `batch`, by stream and view."""
        views, weak, *_ = self._views(batch, keys)
        shown = {str(stream): batch[stream]["image"] for stream in self.streams}
        for stream, name in self.view_names.items():
            if stream in views:
                shown[f"{stream}, {name}"] = views[stream]
        if weak is not None:
            shown[f"{Stream.CLS_UNLABELED}, {self.weak_name}"] = weak
        return {name: images.round().astype(jnp.uint8) for name, images in shown.items()}

    def _classification(
        self, logits: jax.Array, batch: Batch, taught: jax.Array | None
    ) -> tuple[Metrics, Metrics]:
        """Terms, before they are weighted, and what to watch, by logits [B,K] of the labelled
        images, then of any strong views of the unlabelled ones, whose weak views have `taught`."""
        pseudo_labels = functools.partial(
            losses.pseudo_labels, threshold=self.threshold, multi_label=self.multi_label
        )
        label = batch[Stream.CLS_LABELED]["label"]
        labeled, strong = logits[: len(label)], logits[len(label) :]
        terms = {"cls/cross_entropy": losses.cross_entropy(logits=labeled, label=label).mean()}
        right = pseudo_labels(labeled)[0] == label
        known = label >= 0 if self.multi_label else None
        monitors = {"cls/train_accuracy": right.mean(where=known)}
        if taught is not None:
            terms["cls/pseudo_label"] = losses.pseudo_label_cross_entropy(
                weak_logits=taught,
                strong_logits=strong,
                threshold=self.threshold,
                multi_label=self.multi_label,
            ).mean()
            guessed, accepted = pseudo_labels(taught)
            monitors["cls/accepted"] = accepted.mean()
            if "label" in batch[Stream.CLS_UNLABELED]:
                label = batch[Stream.CLS_UNLABELED]["label"]
                # Both of all images, as the accepted ones, so that the quotient of their means over
                # steps and devices is the share that is right, of those of known truth.
                monitors["cls/accepted_and_known"] = (accepted & (label >= 0)).mean()
                monitors["cls/accepted_and_correct"] = (accepted & (guessed == label)).mean()
        return terms, monitors

    def _apply(self, params: Any, *args: Any, method: str) -> Any:
        return self.model.apply({"params": params}, *args, method=method)


def dropout_keys(keys: ExampleKeys, part: str, views: Mapping[Any, jax.Array]) -> jax.Array:
    """A key for each image of each of `views` (arrays by stream), in their order."""
    return keys.several({f"{name}/{part}": len(view) for name, view in views.items()})
