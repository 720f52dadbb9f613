"""One file per method: its loss, term by term."""

from collections.abc import Callable, Mapping
from typing import Any

from multimix_jax.errors import UsageError
from multimix_jax.objectives.base import Objective
from multimix_jax.objectives.consistency import ConsistencyObjective, make_consistency
from multimix_jax.objectives.dtml import DtmlObjective, make_dtml
from multimix_jax.objectives.multimix import MultiMixObjective, make_multimix
from multimix_jax.training import parallel

METHODS: dict[str, Callable[..., Objective]] = {
    "multimix": make_multimix,
    "dtml": make_dtml,
    "consistency": make_consistency,
}

__all__ = [
    "METHODS",
    "ConsistencyObjective",
    "DtmlObjective",
    "MultiMixObjective",
    "Objective",
    "make_objective",
]


def make_objective(
    name: str,
    *,
    model: Mapping[str, Any],
    dtype: str,
    terms: Mapping[str, Any],
    axis_name: str = parallel.AXIS,
) -> Objective:
    """The method called `name`, one of METHODS.

    Args:
      name: of the method.
      model: attributes of its network.
      dtype: of the computation, 'float32' or 'bfloat16'.
      terms: weights and thresholds of its loss.
      axis_name: mapped axis of the devices, over which a norm of batches takes its statistics.

    Raises:
      UsageError: unknown name or dtype.
    """
    if name not in METHODS:
        raise UsageError(
            f"method={name!r} is unknown; use one of {', '.join(METHODS)} (config.method)"
        )
    if dtype not in ("float32", "bfloat16"):
        raise UsageError(f"dtype={dtype!r} is unknown; use 'float32' or 'bfloat16' (config.dtype)")
    return METHODS[name](model=model, dtype=dtype, terms=terms, axis_name=axis_name)
