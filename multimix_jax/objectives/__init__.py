"""One file per method: its loss, term by term."""

from multimix_jax.errors import UsageError
from multimix_jax.labels import LabelSpec
from multimix_jax.objectives.base import Network, Objective, ObjectiveSpec
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
    "ObjectiveSpec",
    "make_objective",
]


def make_objective(spec: ObjectiveSpec, labels: LabelSpec | None = None) -> Objective:
    """The objective that `spec` describes, of one of METHODS.

    `num_classes` and `mask_channels` of 0 in its model are what `labels`, of the training data,
    has. UsageError says which name is unknown, or which value is out of its range.
    """
    if spec.method not in METHODS:
        raise UsageError(
            f"method={spec.method!r} is unknown; use one of {', '.join(METHODS)} (config.method)"
        )
    if spec.dtype not in ("float32", "bfloat16"):
        raise UsageError(
            f"dtype={spec.dtype!r} is unknown; use 'float32' or 'bfloat16' (config.dtype)"
        )
    return METHODS[spec.method].of_config(spec, labels or LabelSpec())
