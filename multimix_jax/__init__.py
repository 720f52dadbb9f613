"""MultiMix in JAX: classify and segment medical images from few labels, with one network."""

from multimix_jax import (
    appearance,
    augment,
    losses,
    metrics,
    models,
    objectives,
    optimizer,
    parallel,
    pose,
)
from multimix_jax.errors import UsageError
from multimix_jax.keys import ExampleKeys
from multimix_jax.models import (
    ClassifierHead,
    Decoder,
    Encoder,
    MultiMix,
    MultiMixOutput,
    SaliencyBridge,
    UNet,
    VNet,
    saliency_map,
)
from multimix_jax.objectives import ConsistencyObjective, DtmlObjective, MultiMixObjective
from multimix_jax.train_state import TrainState
from multimix_jax.train_step import make_train_step

__version__ = "0.1.0"

__all__ = [
    "ClassifierHead",
    "ConsistencyObjective",
    "Decoder",
    "DtmlObjective",
    "Encoder",
    "ExampleKeys",
    "MultiMix",
    "MultiMixObjective",
    "MultiMixOutput",
    "SaliencyBridge",
    "TrainState",
    "UNet",
    "UsageError",
    "VNet",
    "appearance",
    "augment",
    "losses",
    "make_train_step",
    "metrics",
    "models",
    "objectives",
    "optimizer",
    "parallel",
    "pose",
    "saliency_map",
]
