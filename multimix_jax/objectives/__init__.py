"""One file per method: its loss, term by term."""

from collections.abc import Mapping
from typing import Any

from multimix_jax.errors import UsageError
from multimix_jax.labels import LabelSpec
from multimix_jax.objectives import consistency, dtml, multimix
from multimix_jax.objectives.base import Method, Network, Objective
from multimix_jax.objectives.consistency import ConsistencyObjective
from multimix_jax.objectives.dtml import DtmlObjective
from multimix_jax.objectives.multimix import MultiMixObjective

METHODS: dict[str, Method] = {
    "multimix": multimix.METHOD,
    "dtml": dtml.METHOD,
    "consistency": consistency.METHOD,
}
AXIS = "batch"  # of the devices, over which a norm of batches takes its statistics

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
    axis_name: str = AXIS,
) -> Objective:
    """The method called `name`, one of METHODS.

    Args:
      name: of the method.
      model: attributes of its network; `num_classes` and `mask_channels` of 0 are what `labels`
        has.
      dtype: of the computation, 'float32' or 'bfloat16'.
      terms: weights and thresholds of its loss.
      labels: of the training data; None for none.
      axis_name: mapped axis of the devices, over which a norm of batches takes its statistics.

    Raises:
      UsageError: a name is unknown, or a value is out of its range.
    """
    if name not in METHODS:
        raise UsageError(
            f"method={name!r} is unknown; use one of {', '.join(METHODS)} (config.method)"
        )
    if dtype not in ("float32", "bfloat16"):
        raise UsageError(f"dtype={dtype!r} is unknown; use 'float32' or 'bfloat16' (config.dtype)")
    return METHODS[name].make(model, dtype, terms, labels or LabelSpec(), axis_name)
