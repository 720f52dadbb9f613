"""Dual-task mutual learning: its networks, and its loss, term by term; in part, its anchors."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp

from multimix_jax import losses
from multimix_jax.augment import spatial
from multimix_jax.errors import UsageError
from multimix_jax.keys import ExampleKeys
from multimix_jax.labels import LabelSpec
from multimix_jax.models.multimix import normalize
from multimix_jax.models.unet import UNet
from multimix_jax.models.vnet import VNet
from multimix_jax.names import Component, Head, Stream
from multimix_jax.objectives.base import (
    AXIS,
    Batch,
    Metrics,
    Network,
    Objective,
    ObjectiveSpec,
    make_checked,
)
from multimix_jax.objectives.checks import check_batch
from multimix_jax.objectives.joint import dropout_keys
from multimix_jax.ops.distance import signed_distance
from multimix_jax.state import TrainState

LABELED, UNLABELED = Stream.SEG_LABELED, Stream.SEG_UNLABELED
NETWORKS: dict[str, type[VNet | UNet]] = {"vnet": VNet, "unet": UNet}
_TEACHER = "teacher"  # its statistics stand beside the networks'
_STAIRS = 40  # of the ramp-up
_NOISE_BOUND = 2.0  # standard deviations


@dataclasses.dataclass(frozen=True)
class DtmlNetwork(Network):
    """The networks of masks and of distance maps beside each other, as a `Network`."""

    seg: VNet | UNet
    sdf: VNet | UNet | None
    patch: tuple[int, ...]
    sharpness: float
    has_teacher: bool  # whose weights predict, with running statistics of its own

    @property
    def has_batch_stats(self) -> bool:
        """Only a teacher collects those of averaged weights."""
        return getattr(self.seg, "norm", "") == "batch" and not self.has_teacher

    @property
    def members(self) -> dict[str, VNet | UNet]:
        """The networks by their name among the weights."""
        return {"seg": self.seg} | ({} if self.sdf is None else {"sdf": self.sdf})

    def input_shape(self, size: int) -> tuple[int, ...]:
        return (*(self.patch or (size, size)), 1)

    def init(self, key: jax.Array, size: int) -> Any:
        images = jnp.zeros((1, *self.input_shape(size)))
        collected: dict[str, dict[str, Any]] = {}
        for index, (name, net) in enumerate(self.members.items()):
            variables = net.init(jax.random.fold_in(key, index), images)
            for collection, values in variables.items():
                collected.setdefault(collection, {})[name] = values
        if self.has_teacher and "batch_stats" in collected:
            collected["batch_stats"][_TEACHER] = dict(collected["batch_stats"])
        return collected

    def predict(
        self, variables: Any, images: jax.Array, dropout_keys: jax.Array | None = None
    ) -> dict[Head, jax.Array]:
        """Images [B,(D,)H,W,1] -> probabilities of the mask; of two networks by either and by
        their average, and the distance map."""
        stats = variables.get("batch_stats", {})
        stats = stats.get(_TEACHER, stats)
        dropout = dict.fromkeys(self.members, dropout_keys)
        outputs, _ = self.apply(variables["params"], stats, _as_float(images), dropout, train=False)
        predicted = {Head.MASK: jax.nn.sigmoid(outputs["seg"])}
        if self.sdf is not None:
            inside = losses.mask_of_distance(outputs["sdf"], self.sharpness)
            predicted[Head.MASK_SDF] = inside
            predicted[Head.MASK_AVERAGE] = (predicted[Head.MASK] + inside) / 2
            predicted[Head.DISTANCE] = outputs["sdf"]
        return predicted

    def apply(
        self, params: Any, stats: Any, images: jax.Array, dropout: Mapping[str, Any], *, train: bool
    ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """Outputs by network, and in training new statistics of those that have any."""
        mutable = ["batch_stats"] if train else []
        outputs: dict[str, jax.Array] = {}
        kept: dict[str, Any] = {}
        for name, net in self.members.items():
            own = {"params": params[name], "batch_stats": stats.get(name, {})}
            output, updated = net.apply(own, images, dropout[name], train=train, mutable=mutable)
            (outputs[name],) = output.values()
            if updated.get("batch_stats"):
                kept[name] = updated["batch_stats"]
        return outputs, kept


@dataclasses.dataclass(frozen=True)
class DtmlObjective(Objective):
    """L = L_seg + L_sdf + mutual_weight w(step) L_mut (Zhang & Zhang 2021, equations 3 to 6).

    L_seg = (BCE(seg, y) + Dice(seg, y)) / 2 on labelled images
    L_sdf = Dice(T(sdf), y) + distance_weight mean |sdf - d(y)|^p on labelled images
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
    """

    seg: VNet | UNet  # predicts masks
    sdf: VNet | UNet | None  # predicts distance maps; None leaves it and the mutual term out
    patch: tuple[int, ...] = ()  # sides of the random crops, pixels; () takes whole images
    turn: bool = True  # whether crops are also turned by quarters and mirrored
    sharpness: float = 1500.0
    mutual_weight: float = 2.0  # 0 leaves the mutual term out: two networks beside each other
    mutual_on: str = "all"  # images (released code), or the "unlabeled" ones (paper)
    detach: str = "none"  # "seg" or "sdf" takes that side of the mutual term as given
    ramp_up: int = 6000  # steps until the mutual and the teacher's weights are whole
    distance_weight: float = 0.0
    distance_power: int = 2  # p, 1 or 2
    teacher_weight: float = 0.0  # 0 for no teacher
    teacher_noise: float = 0.1  # standard deviation, of the images as the network sees them
    labels: LabelSpec = LabelSpec()  # what changes places in a mirror image, and what is void

    switches = ("ema_decay", "model.use_sdf", "objective.mutual_weight", "objective.teacher_weight")

    @classmethod
    def of_config(cls, spec: ObjectiveSpec, labels: LabelSpec) -> Self:
        """`spec.model` holds `network`, one of NETWORKS; `use_sdf`, whether there is a network of
        distance maps; and the attributes of the network. Of `labels` there is one mask."""
        terms, attributes = spec.objective, dict(spec.model)
        name, use_sdf = attributes.pop("network"), attributes.pop("use_sdf")
        for field, value, allowed in (
            ("model.network", name, tuple(NETWORKS)),
            ("objective.mutual_on", terms["mutual_on"], ("all", "unlabeled")),
            ("objective.detach", terms["detach"], ("none", "seg", "sdf")),
        ):
            if value not in allowed:
                raise UsageError(
                    f"config.{field}={value!r} is unknown; use one of {', '.join(allowed)}"
                )
        if labels.void and terms["distance_weight"]:
            raise UsageError(
                f"objective.distance_weight={terms['distance_weight']}, but some pixels of the "
                "masks are void, so that distances to what is inside are not known; set "
                "config.objective.distance_weight=0"
            )
        patch = tuple(side for side in terms["patch"] if side)
        if terms["turn"] and patch and patch[0] != patch[1]:
            raise UsageError(
                f"patch={patch}, but its first two sides must be the same for turns of 90 degrees; "
                "set config.objective.patch, or config.objective.turn=False"
            )

        def network(head: str) -> Any:
            common = dict(heads=(head,), dtype=jnp.dtype(spec.dtype), axis_name=AXIS)
            return make_checked(NETWORKS[name], "model", **attributes, **common)

        sdf = network("sdf") if use_sdf else None
        terms = {**terms, "patch": patch}
        networks = dict(seg=network("mask"), sdf=sdf)
        return make_checked(cls, "objective", **networks, labels=labels, **terms)

    @property
    def network(self) -> DtmlNetwork:
        return DtmlNetwork(self.seg, self.sdf, self.patch, self.sharpness, self.uses_average)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The unlabelled one where a term uses it."""
        return (LABELED, UNLABELED) if self._mutual or self.uses_average else (LABELED,)

    @property
    def has(self) -> dict[Component, bool]:
        return {
            Component.DECODER: True,
            Component.DISTANCE_NETWORK: self.sdf is not None,
            Component.MUTUAL: self._mutual,
            Component.TEACHER: self.uses_average,
        }

    @property
    def uses_average(self) -> bool:
        return self.teacher_weight > 0

    @property
    def _mutual(self) -> bool:
        return self.sdf is not None and self.mutual_weight > 0

    def check_batch(self, batch: Batch) -> None:
        """See `Objective`; images may be of any range."""
        check_batch(batch, self, mask_channels=self.seg.mask_channels, eight_bit=False)

    def __call__(
        self, params: Any, state: TrainState, batch: Batch, keys: ExampleKeys
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """Loss of one batch: scalar, (terms and other metrics, batch statistics).

        Streams hold `image` [B,(D,)H,W,1], uint8 or float, `extent` int [B,2 or 3], the part of it
        that is not filling (all of it without), and, labelled, `mask` of 0/1 (and, where
        `labels.void`, VOID) of its shape.
        """
        self.check_batch(batch)
        views = self._views(batch, keys)
        by_stream = {stream: view["image"] for stream, view in views.items()}
        masks, known = losses.Truth.of_stored(views[LABELED]["mask"], void=self.labels.void)
        labeled = slice(len(masks))
        network = self.network
        dropout = {name: dropout_keys(keys, name, by_stream) for name in network.members}
        images = jnp.concatenate(list(by_stream.values()))
        outputs, stats = network.apply(params, state.batch_stats, images, dropout, train=True)

        logits = outputs["seg"]
        entropy = losses.binary_cross_entropy(logits=logits[labeled], mask=masks, known=known)
        dice = functools.partial(losses.squared_dice_loss, mask=masks, known=known)
        overlap = dice(probability=jax.nn.sigmoid(logits[labeled]))
        terms = {"seg/cross_entropy": entropy.mean() / 2, "seg/dice": overlap.mean() / 2}
        monitors: Metrics = {}
        if UNLABELED in views:
            monitors["ramp_up"] = ramp_up(state.step, self.ramp_up)
        if self.sdf is not None:
            inside = losses.mask_of_distance(outputs["sdf"], self.sharpness)
            terms["sdf/dice"] = dice(probability=inside[labeled]).mean()
            if self.distance_weight:
                error = jnp.abs(outputs["sdf"][labeled] - signed_distance(masks))
                terms["sdf/distance"] = self.distance_weight * (error**self.distance_power).mean()
        if self._mutual:
            disagreement = self._disagreement(inside, jax.nn.sigmoid(logits), len(masks))
            terms["mutual"] = self.mutual_weight * monitors["ramp_up"] * disagreement
        if self.uses_average:
            taught, new = self._teach(state, by_stream[UNLABELED], keys)
            if new:  # with batch norm only, as `init` has it
                stats[_TEACHER] = new
            error = jnp.square(jax.nn.sigmoid(logits[len(masks) :]) - taught).mean()
            terms["teacher"] = self.teacher_weight * monitors["ramp_up"] * error
        return jnp.asarray(sum(terms.values())), ({**terms, **monitors}, stats)

    def views(self, batch: Batch, keys: ExampleKeys) -> dict[str, jax.Array]:
        """The crops that the networks see of `batch`, by stream."""
        return {name: view["image"] for name, view in self._views(batch, keys).items()}

    def _views(self, batch: Batch, keys: ExampleKeys) -> dict[Stream, dict[str, jax.Array]]:
        """A random crop of every image, as floats, and of its mask."""
        turn = functools.partial(
            spatial.random_rot90_flip,
            flips=self.labels.may_mirror,
            orders={"mask": self.labels.mask_order},
        )
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
                arrays = jax.vmap(turn)(keys(f"{name}/turn", count), arrays)
            views[name] = {**arrays, "image": _as_float(arrays["image"])}
        return views

    def _teach(
        self, state: TrainState, images: jax.Array, keys: ExampleKeys
    ) -> tuple[jax.Array, dict[str, Any]]:
        """What the moving average of the weights says of images with noise, probabilities by `seg`,
        and its statistics; `sdf` teaches nothing, but is predicted with as well."""
        draw = lambda key: jax.random.truncated_normal(
            key, -_NOISE_BOUND, _NOISE_BOUND, images.shape[1:]
        )
        images += self.teacher_noise * jax.vmap(draw)(keys("teacher/noise", len(images)))
        network = self.network
        dropout = dict.fromkeys(network.members, keys("teacher/dropout", len(images)))
        params = jax.lax.stop_gradient(state.ema_params)
        old = state.batch_stats.get(_TEACHER, {})
        outputs, stats = network.apply(params, old, images, dropout, train=True)
        return jax.nn.sigmoid(outputs["seg"]), stats

    def _disagreement(self, of_sdf: jax.Array, of_seg: jax.Array, labeled: int) -> jax.Array:
        if self.detach == "sdf":
            of_sdf = jax.lax.stop_gradient(of_sdf)
        if self.detach == "seg":
            of_seg = jax.lax.stop_gradient(of_seg)
        start = labeled if self.mutual_on == "unlabeled" else 0
        return jnp.square(of_sdf[start:] - of_seg[start:]).mean()


def ramp_up(step: jax.Array, steps: int) -> jax.Array:
    """exp(-5 (1 - min(s, 40) / 40)^2), s = floor(40 step / steps): by stairs, from .007 to 1 (Zhang
    & Zhang 2021, section 2.3, with steps = 6000)."""
    share = jnp.minimum(_STAIRS * step // steps, _STAIRS) / _STAIRS
    return jnp.exp(-5.0 * jnp.square(1.0 - share))


def _as_float(images: jax.Array) -> jax.Array:
    """8-bit images -> [-1, 1]; others, such as volumes of unit variance, as they are."""
    return normalize(images) if images.dtype == jnp.uint8 else images.astype(jnp.float32)
