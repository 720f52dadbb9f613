"""One file per method: its loss, term by term."""

from collections.abc import Mapping
from typing import Any

from multimix_jax.errors import UsageError
from multimix_jax.labels import LabelSpec
from multimix_jax.objectives.base import Network, Objective
from multimix_jax.objectives.consistency import ConsistencyObjective
from multimix_jax.objectives.dtml import DtmlObjective
from multimix_jax.objectives.multimix import MultiMixObjective

METHODS: dict[str, type[Objective]] = {
    "multimix": MultiMixObjective,
    "dtml": DtmlObjective,
    "consistency": ConsistencyObjective,
}

__all__ = [
    "METHODS",
    "ConsistencyObjective",
    "DtmlObjective",
    "MultiMixObjective",
    "Network",
    "Objective",
    "make_objective",
]


def make_objective(
    name: str,
    *,
    model: Mapping[str, Any],
    dtype: str,
    terms: Mapping[str, Any],
    labels: LabelSpec | None = None,
) -> Objective:
    """The method called `name`, one of METHODS.

    `model` has the attributes of its network; `num_classes` and `mask_channels` of 0 are what
    `labels`, of the training data, has. `dtype` is that of the computation, 'float32' or
    'bfloat16'; `terms` are weights and thresholds of the loss. UsageError says which name is
    unknown, or which value is out of its range.
    """
    if name not in METHODS:
        raise UsageError(
            f"method={name!r} is unknown; use one of {', '.join(METHODS)} (config.method)"
        )
    if dtype not in ("float32", "bfloat16"):
        raise UsageError(f"dtype={dtype!r} is unknown; use 'float32' or 'bfloat16' (config.dtype)")
    return METHODS[name].of_config(model, dtype, terms, labels or LabelSpec())
