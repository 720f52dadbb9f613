"""The loss of dual-task mutual learning, term by term; with parts left out, of its anchors."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from multimix_jax import losses
from multimix_jax.augment import spatial
from multimix_jax.errors import UsageError
from multimix_jax.keys import ExampleKeys
from multimix_jax.labels import LabelSpec
from multimix_jax.models.unet import UNet
from multimix_jax.models.vnet import VNet
from multimix_jax.names import Component, Stream
from multimix_jax.objectives.base import Batch, Method, Metrics, make_checked
from multimix_jax.objectives.dtml_network import TEACHER, DtmlNetwork, as_float
from multimix_jax.objectives.joint import dropout_keys
from multimix_jax.ops.distance import signed_distance
from multimix_jax.state import TrainState

LABELED, UNLABELED = Stream.SEG_LABELED, Stream.SEG_UNLABELED
NETWORKS: dict[str, type[VNet | UNet]] = {"vnet": VNet, "unet": UNet}
_STAIRS = 40  # of the ramp-up
_NOISE_BOUND = 2.0  # standard deviations


@dataclasses.dataclass(frozen=True)
class DtmlObjective:
    """L = L_seg + L_sdf + mutual_weight w(step) L_mut (Zhang & Zhang 2021, equations 3 to 6).

    L_seg = (BCE(seg, y) + Dice(seg, y)) / 2 on labelled images
    L_sdf = Dice(T(sdf), y) + distance_weight |sdf - d(y)|^p on labelled images
    L_mut = mean (T(sdf) - sigmoid(seg))^2, w = exp(-5 (1 - min(s, 40) / 40)^2),
      s = floor(40 step / ramp_up)

    T(z) = sigmoid(-sharpness z), d the signed distance map. Each term is differentiated by both
    networks. The released code adds L_mut to the loss of either network and sends both losses back
    into both, so that each receives twice its gradient: mutual_weight 2. The paper has 1.

    Without `sdf` it is supervised learning, or with `teacher_weight` mean teacher (Tarvainen &
    Valpola 2017; in 3D Yu et al. 2019 without uncertainty): L = L_seg + teacher_weight w(step) mean
    (sigmoid(seg) - sigmoid(teacher))^2 on unlabelled images, both with dropout of their own and the
    teacher's images with noise; the teacher is the moving average of the weights, with running
    statistics of its own where there are any, and it is the teacher that predicts.

    Attributes:
      seg: network of the masks.
      sdf: network of the distance maps; None leaves it and the mutual term out.
      patch: sides of the random crops, pixels; () takes whole images.
      turn: whether crops are also turned by quarters and mirrored.
      sharpness: k.
      mutual_weight: 0 leaves the mutual term out: two networks beside each other.
      mutual_on: 'all' images (released code) or the 'unlabeled' ones (paper).
      detach: 'seg' or 'sdf' takes that side of the mutual term as given, 'none' neither.
      ramp_up: steps until the weights of the mutual term and of the teacher are whole.
      distance_weight: of the distance loss, 0 as published.
      distance_power: its p, 1 or 2.
      teacher_weight: of the teacher's term, 0 for no teacher.
      teacher_noise: standard deviation, of the images as the network sees them.
    """

    seg: VNet | UNet
    sdf: VNet | UNet | None
    patch: tuple[int, ...] = ()
    turn: bool = True
    sharpness: float = 1500.0
    mutual_weight: float = 2.0
    mutual_on: str = "all"
    detach: str = "none"
    ramp_up: int = 6000
    distance_weight: float = 0.0
    distance_power: int = 2
    teacher_weight: float = 0.0
    teacher_noise: float = 0.1

    @property
    def network(self) -> DtmlNetwork:
        """What is trained and predicts."""
        return DtmlNetwork(
            self.seg, self.sdf, self.patch, self.sharpness, has_teacher=self.teacher_weight > 0
        )

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams that a batch must hold; the unlabelled one where a term uses it."""
        return (LABELED, UNLABELED) if self._mutual or self.teacher_weight else (LABELED,)

    @property
    def components(self) -> tuple[Component, ...]:
        """What it consists of."""
        has = {
            Component.DECODER: True,
            Component.DISTANCE_NETWORK: self.sdf is not None,
            Component.MUTUAL: self._mutual,
            Component.TEACHER: self.teacher_weight > 0,
        }
        return tuple(component for component, there in has.items() if there)

    @property
    def uses_average(self) -> bool:
        """The teacher is the moving average of the weights."""
        return self.teacher_weight > 0

    @property
    def _mutual(self) -> bool:
        return self.sdf is not None and self.mutual_weight > 0

    def __call__(
        self, params: Any, state: TrainState, batch: Batch, keys: ExampleKeys
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """Loss of one batch: scalar, (terms and other metrics, batch statistics).

        Streams hold `image` [B,(D,)H,W,1], uint8 or float, `extent` int [B,2 or 3], the part of it
        that is not filling (all of it without), and, labelled, `mask` of 0/1 of its shape.
        """
        views = self._views(batch, keys)
        images = jnp.concatenate([views[name]["image"] for name in self.streams])
        masks = views[LABELED]["mask"].astype(jnp.float32)
        labeled = slice(len(masks))
        network, outputs, stats = self.network, {}, {}
        streams = {stream: view["image"] for stream, view in views.items()}
        for name in network.members:
            dropout = dropout_keys(keys, name, streams)
            outputs[name], stats[name] = network.train(
                name, params, state.batch_stats, images, dropout
            )

        logits = outputs["seg"]
        entropy = losses.binary_cross_entropy(logits=logits[labeled], mask=masks)
        overlap = losses.squared_dice_loss(probability=jax.nn.sigmoid(logits[labeled]), mask=masks)
        terms = {"seg/cross_entropy": entropy.mean() / 2, "seg/dice": overlap.mean() / 2}
        monitors: Metrics = {}
        if self._mutual or self.teacher_weight:
            monitors["ramp_up"] = ramp_up(state.step, self.ramp_up)
        if self.sdf is not None:
            inside = losses.mask_of_distance(outputs["sdf"], self.sharpness)
            overlap = losses.squared_dice_loss(probability=inside[labeled], mask=masks)
            terms["sdf/dice"] = overlap.mean()
            if self.distance_weight:
                error = jnp.abs(outputs["sdf"][labeled] - signed_distance(masks))
                terms["sdf/distance"] = self.distance_weight * (error**self.distance_power).mean()
        if self._mutual:
            disagreement = self._disagreement(inside, jax.nn.sigmoid(logits), len(masks))
            terms["mutual"] = self.mutual_weight * monitors["ramp_up"] * disagreement
        if self.teacher_weight:
            taught, stats[TEACHER] = self._teacher(state, views[UNLABELED]["image"], keys)
            error = jnp.square(jax.nn.sigmoid(logits[len(masks) :]) - taught).mean()
            terms["teacher"] = self.teacher_weight * monitors["ramp_up"] * error
        # Without batch norm there are no statistics, as `init` has it.
        stats = {name: kept for name, kept in stats.items() if kept}
        return jnp.asarray(sum(terms.values())), ({**terms, **monitors}, stats)

    def views(self, batch: Batch, keys: ExampleKeys) -> dict[str, jax.Array]:
        """The crops that the networks see of `batch`, by stream."""
        return {name: view["image"] for name, view in self._views(batch, keys).items()}

    def _views(self, batch: Batch, keys: ExampleKeys) -> dict[Stream, dict[str, jax.Array]]:
        """A random crop of every image, as floats, and of its mask."""
        views = {}
        for name in self.streams:
            stream = batch[name]
            arrays = {key: stream[key] for key in ("image", "mask") if key in stream}
            count, *sides, _ = stream["image"].shape
            extent = jnp.broadcast_to(jnp.asarray(sides), (count, len(sides)))
            if self.patch:
                crop = functools.partial(spatial.random_crop, patch=self.patch)
                extent = stream.get("extent", extent)
                arrays = jax.vmap(crop)(keys(f"{name}/crop", count), arrays, extent)
            if self.turn:
                arrays = jax.vmap(spatial.random_rot90_flip)(keys(f"{name}/turn", count), arrays)
            views[name] = {**arrays, "image": as_float(arrays["image"])}
        return views

    def _teacher(
        self, state: TrainState, images: jax.Array, keys: ExampleKeys
    ) -> tuple[jax.Array, Any]:
        """What the moving average of the weights says of images with noise, and its statistics.

        Probabilities by `seg`; `sdf` teaches nothing, but is predicted with as well.
        """
        draw = lambda key: jax.random.truncated_normal(
            key, -_NOISE_BOUND, _NOISE_BOUND, images.shape[1:]
        )
        noise = jax.vmap(draw)(keys("teacher/noise", len(images)))
        images += self.teacher_noise * noise
        dropout = keys("teacher/dropout", len(images))
        params = jax.lax.stop_gradient(state.ema_params)
        old = state.batch_stats.get(TEACHER, {})
        logits: dict[str, jax.Array] = {}
        stats: dict[str, Any] = {}
        for name in self.network.members:
            logits[name], new = self.network.train(name, params, old, images, dropout)
            stats |= {name: new} if new else {}
        return jax.nn.sigmoid(logits["seg"]), stats

    def _disagreement(self, of_sdf: jax.Array, of_seg: jax.Array, labeled: int) -> jax.Array:
        if self.detach == "sdf":
            of_sdf = jax.lax.stop_gradient(of_sdf)
        if self.detach == "seg":
            of_seg = jax.lax.stop_gradient(of_seg)
        start = labeled if self.mutual_on == "unlabeled" else 0
        return jnp.square(of_sdf[start:] - of_seg[start:]).mean()


def ramp_up(step: jax.Array, steps: int) -> jax.Array:
    """exp(-5 (1 - min(s, 40) / 40)^2), s = floor(40 step / steps): by stairs, from .007 to 1.

    Zhang & Zhang 2021, section 2.3, with steps = 6000.
    """
    share = jnp.minimum(_STAIRS * step // steps, _STAIRS) / _STAIRS
    return jnp.exp(-5.0 * jnp.square(1.0 - share))


def _make(
    model: Mapping[str, Any],
    dtype: str,
    terms: Mapping[str, Any],
    labels: LabelSpec,
    axis_name: str,
) -> DtmlObjective:
    """`model` holds `network`, one of NETWORKS; `use_sdf`, whether there is a network of distance
    maps; and the attributes of the network."""
    del labels  # one mask
    attributes = dict(model)
    name, use_sdf = attributes.pop("network"), attributes.pop("use_sdf")
    if name not in NETWORKS:
        raise UsageError(
            f"model.network={name!r} is unknown; use one of {', '.join(NETWORKS)} "
            "(config.model.network)"
        )
    for key, allowed in (("mutual_on", ("all", "unlabeled")), ("detach", ("none", "seg", "sdf"))):
        if terms[key] not in allowed:
            raise UsageError(
                f"{key}={terms[key]!r} is unknown; use one of {', '.join(allowed)} "
                f"(config.objective.{key})"
            )
    patch = tuple(side for side in terms["patch"] if side)
    if terms["turn"] and patch and patch[0] != patch[1]:
        raise UsageError(
            f"patch={patch}, but its first two sides must be the same for turns of 90 degrees; "
            "set config.objective.patch, or config.objective.turn=False"
        )

    def network(head: str) -> Any:
        common = dict(heads=(head,), dtype=jnp.dtype(dtype), axis_name=axis_name)
        return make_checked(NETWORKS[name], "model", **attributes, **common)

    sdf = network("sdf") if use_sdf else None
    terms = {**terms, "patch": patch}
    return make_checked(DtmlObjective, "objective", seg=network("mask"), sdf=sdf, **terms)


METHOD = Method(
    _make,
    switches=("ema_decay", "model.use_sdf", "objective.mutual_weight", "objective.teacher_weight"),
)
