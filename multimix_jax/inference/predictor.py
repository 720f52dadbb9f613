"""Predictions: networks, alone or together, and all that lies between images and answers."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from multimix_jax.augment.spatial import reorder
from multimix_jax.errors import UsageError
from multimix_jax.evaluation import geometry
from multimix_jax.evaluation.calibration import Calibration
from multimix_jax.inference import saliency
from multimix_jax.inference.windows import Windows, make_sliding_window
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Head
from multimix_jax.objectives.base import Network
from multimix_jax.training import machine, parallel

PyTree = Any
Answer = dict[Any, Any]  # arrays by head, and by the names below

SALIENCY = "saliency"  # beside the heads
SPREAD = {Head.MASK: "mask_spread", Head.CLASSES: "classes_spread"}
DISAGREEMENT = "mask_disagreement"


@dataclasses.dataclass(frozen=True)
class PredictionSpec:
    """How images are predicted, by the fields of configs/common.py."""

    eval_batch_size: int = dataclasses.field(default=32, metadata={"least": 1})
    flips: bool = False
    keep_largest: int = dataclasses.field(default=0, metadata={"least": -1})
    window: Windows = Windows()

    @property
    def windows(self) -> Windows | None:
        """How images are cut; None takes each whole."""
        return self.window if self.window.patch else None


@dataclasses.dataclass(frozen=True)
class Member:
    """A network as it was validated, with its calibration, if any."""

    network: Network
    spec: PredictionSpec = PredictionSpec()
    calibration: Calibration | None = None
    labels: LabelSpec = LabelSpec()  # where they forbid mirror images, nothing is flipped

    def answer(
        self, variables: PyTree, images: jax.Array, keys: jax.Array | None, *, flips: bool
    ) -> Answer:
        """Probabilities by head, with `flips` means over the images and their mirror images; `keys`
        [B] switch dropout on."""
        answer = self.network.predict(variables, images, keys)
        if flips and self.labels.may_mirror:
            mirrored = self.network.predict(variables, jnp.flip(images, 2), keys)
            flipped = self.flip_back(dict(mirrored))
            answer = {head: (answer[head] + flipped[head]) / 2 for head in answer}
        if Head.CLASSES in answer and self.calibration is not None:
            answer[Head.CLASSES] = self.calibration(answer[Head.CLASSES])
        return dict(answer)

    @property
    def components(self) -> int | tuple[int, ...]:
        """How many are kept of each predicted mask, of all or of each channel; 0 for all."""
        kept = self.spec.keep_largest
        return kept if kept >= 0 else self.labels.components or 0

    def flip_back(self, answer: Answer, axis: int = 2) -> Answer:
        """What was answered for flipped images, as of the images."""
        back = {}
        for name, values in answer.items():
            order = self.labels.class_order if name == Head.CLASSES else self.labels.mask_order
            values = values if name == Head.CLASSES else jnp.flip(values, axis)
            back[name] = values if name == SALIENCY else reorder(values, order)
        return back


@dataclasses.dataclass(frozen=True)
class Predictor:
    """members x flips x draws (x windows) -> means -> masks, classes, saliency.

    Validation, tests, `multimix-predict`, exported programs and the Python API all predict by it.

    Attributes:
      members: one, or those of an ensemble; windows and masks are as the first one's `spec` says.
      compare_flips: each member answers for the image and for its mirror image, in place of their
        mean.
      draws: answers of each with dropout on (Gal & Ghahramani 2016); 0 for one without.
    """

    members: Sequence[Member]
    compare_flips: bool = False
    draws: int = 0
    saliency: str = "none"  # one of `saliency.KINDS`
    seed: int = 0  # of dropout and noise
    quick: bool = False  # the time to compile matters more than that of an image

    def __post_init__(self) -> None:
        labels = self.members[0].labels
        if self.compare_flips and not labels.may_mirror:
            pairs = ", ".join(map("=".join, labels.mirrored))
            raise UsageError(
                "the network knows no mirror images, since its masks or classes have one side "
                f"alone (config.mirrored: {pairs}); leave --flips out"
            )

    @property
    def spec(self) -> PredictionSpec:
        return self.members[0].spec

    def __call__(
        self, variables: Sequence[PyTree], images: Any, places: np.ndarray | None = None
    ) -> Answer:
        """Compiled, over this process's devices; see `predict`. Volumes, or larger images, go
        window by window, on one device."""
        if self.spec.windows is not None:
            answers = [self._by_windows(variables, image) for image in images]
            return {name: np.stack([answer[name] for answer in answers]) for name in answers[0]}
        if places is None:
            places = np.arange(len(images))
        return self._compiled(variables, (images, places.astype(np.int32)))

    def predict(
        self, variables: Sequence[PyTree], images: jax.Array, places: jax.Array | None = None
    ) -> Answer:
        """What the members predict together; a pure function, to be compiled.

        Args:
          variables: of each member.
          images: uint8 [B,H,W,C], fitted to the network's side.
          places: int [B], on which, with `seed`, dropout and noise of an image depend alone.

        Returns:
          By `Head`, the means of all answers' probabilities; `saliency` [B,H,W,1], zero or more,
          the mean over networks. Of two answers or more also their disagreement: `mask_spread`
          [B,H,W,C'] and `classes_spread` [B,K], standard deviations, and `mask_disagreement`
          [B,C'], 1 less the mean Dice of each answer's mask with the mask of all.
        """
        keys: jax.Array | None = None
        if self.draws or self.saliency == "smoothgrad":
            assert places is not None
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(self.seed), places)
        answers: list[Answer] = []  # each with an axis of draws before that of images
        for index, (member, own) in enumerate(zip(self.members, variables, strict=True)):
            for flipped in (False, True) if self.compare_flips else (False,):
                own_keys = _fold_in(keys, 2 * index + flipped)
                view = jnp.flip(images, 2) if flipped else images
                answer = self._draws(member, own, view, own_keys)
                shown = saliency.make_map(self.saliency, member.network, own, view, own_keys)
                if shown is not None:
                    answer[SALIENCY] = shown[None]
                answers.append(member.flip_back(answer, axis=3) if flipped else answer)
        every = {head: jnp.concatenate([answer[head] for answer in answers]) for head in answers[0]}
        result: Answer = {head: values.mean(axis=0) for head, values in every.items()}
        if len(answers) * max(self.draws, 1) > 1:
            result |= {SPREAD[h]: v.std(axis=0) for h, v in every.items() if h in SPREAD}
            if Head.MASK in every:
                result[DISAGREEMENT] = _disagreement(every[Head.MASK], result[Head.MASK])
        return result

    def masks(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities [*sides,C] of one image -> masks, bool."""
        return geometry.largest_components(probabilities >= 0.5, self.members[0].components)

    def _draws(
        self, member: Member, variables: PyTree, images: jax.Array, keys: jax.Array | None
    ) -> Answer:
        """Answers [draws,B,...], of which each has dropout of its own; or [1,B,...] without."""
        flips = member.spec.flips and not self.compare_flips

        def answer(draw: jax.Array) -> Answer:
            return member.answer(variables, images, _fold_in(keys, draw), flips=flips)

        if not self.draws:
            alone = member.answer(variables, images, None, flips=flips)
            return {head: values[None] for head, values in alone.items()}
        return jax.lax.map(answer, jnp.arange(self.draws))

    @functools.cached_property
    def _compiled(self) -> Callable[..., Answer]:
        return parallel.make_predict(
            lambda variables, batch: self.predict(variables, *batch),
            compiler_options=machine.quick_options() if self.quick else None,
        )

    @functools.cached_property
    def _by_windows(self) -> Callable[..., dict[str, np.ndarray]]:
        return make_sliding_window(self.predict, self.spec.window)


def _fold_in(keys: jax.Array | None, number: jax.Array | int) -> jax.Array | None:
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def _disagreement(masks: jax.Array, mean: jax.Array) -> jax.Array:
    """Probabilities [n,B,H,W,C'] and [B,H,W,C'] -> 1 less the mean Dice, [B,C']; two empty masks
    agree."""
    every, together = masks >= 0.5, mean[None] >= 0.5
    common = (every & together).sum(axis=(2, 3))
    total = every.sum(axis=(2, 3)) + together.sum(axis=(2, 3))
    return (1 - jnp.where(total > 0, 2 * common / jnp.maximum(total, 1), 1.0)).mean(axis=0)
