"""Networks and their parts: everything that has weights, or the path between them."""

from multimix_jax.models.bridge import SaliencyBridge, saliency_map
from multimix_jax.models.multimix import ClassifierHead, MultiMix, MultiMixOutput, normalize
from multimix_jax.models.unet import Decoder, Encoder, UNet
from multimix_jax.models.vnet import VNet

__all__ = [
    "ClassifierHead",
    "Decoder",
    "Encoder",
    "MultiMix",
    "MultiMixOutput",
    "SaliencyBridge",
    "UNet",
    "VNet",
    "normalize",
    "saliency_map",
]
