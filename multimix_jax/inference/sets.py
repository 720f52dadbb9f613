"""Predictions for whole data sets."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from multimix_jax.evaluation import geometry
from multimix_jax.evaluation.evaluate import EvalSet, Predictions
from multimix_jax.inference.predictor import Predictor
from multimix_jax.labels import VOID
from multimix_jax.names import Head

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Baseline:
    """Predicts the same for every image, without looking at it; a mask of other sides is
    stretched."""

    answer: Mapping[Head, np.ndarray]  # probabilities of masks [*sides,C'] and classes [K], if any

    def __call__(self, variables: Sequence[PyTree], images: Any) -> dict[Head, np.ndarray]:
        answer = dict(self.answer)
        if Head.MASK in answer:
            answer[Head.MASK] = geometry.stretch(answer[Head.MASK], images.shape[1:-1])
        return {head: np.broadcast_to(x, (len(images), *x.shape)) for head, x in answer.items()}

    def masks(self, probabilities: np.ndarray) -> np.ndarray:
        return probabilities >= 0.5


def predict_set(
    predictor: Predictor | Baseline,
    variables: Sequence[PyTree],
    eval_set: EvalSet,
    *,
    batch_size: int,
) -> Predictions:
    """Predicts every image of a data set by networks with these variables.

    `batch_size` is best the same for every set: then the program is compiled once.
    """
    columns: dict[str, list[np.ndarray]] = {}
    for batch in eval_set.batches(batch_size):
        output = predictor(variables, batch["image"])
        row = {"has_mask": batch["has_mask"], "label": batch["label"]}
        row["truth"] = batch["mask"] == 1
        if eval_set.label_spec.void:
            row["void"] = (batch["mask"] == VOID).any(axis=-1, keepdims=True)
            pixels = tuple(range(1, row["void"].ndim))
            row["has_mask"] = row["has_mask"] & ~row["void"].all(axis=pixels)
        for head in Head:
            if head not in output:
                continue
            values = np.asarray(output[head])
            if head.is_mask:
                values = np.stack([predictor.masks(probabilities) for probabilities in values])
            row[head] = values.astype(np.float16) if head == Head.DISTANCE else values
        for key, value in row.items():
            columns.setdefault(key, []).append(value[batch["valid"]])
    joined = {key: _join(parts) for key, parts in columns.items()}
    return Predictions(
        ids=eval_set.ids,
        masks={head: joined[head] for head in Head if head.is_mask and head in joined},
        distance=joined.get(Head.DISTANCE),
        truths=joined["truth"],
        voids=joined.get("void"),
        has_mask=joined["has_mask"],
        classes=joined.get(Head.CLASSES),
        labels=joined["label"],
        spacing=eval_set.spacing,
        mask_names=eval_set.label_spec.mask_names,
    )


def _join(parts: list[np.ndarray]) -> Any:
    """One array of all; of volumes of several sizes a list."""
    if len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    return [entry for part in parts for entry in part]
