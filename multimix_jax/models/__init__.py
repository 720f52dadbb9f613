"""Networks and their parts: everything that has weights, or the path between them."""

from multimix_jax.models.bridge import SaliencyBridge, saliency_map
from multimix_jax.models.classifier import ClassifierHead
from multimix_jax.models.decoder import Decoder
from multimix_jax.models.encoder import Encoder
from multimix_jax.models.multimix import MultiMix, MultiMixOutput, normalize

__all__ = [
    "ClassifierHead",
    "Decoder",
    "Encoder",
    "MultiMix",
    "MultiMixOutput",
    "SaliencyBridge",
    "normalize",
    "saliency_map",
]
