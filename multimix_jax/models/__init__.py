"""Networks and their parts: everything that has weights, or the path between them."""

from multimix_jax.models.bridge import SaliencyBridge, saliency_map
from multimix_jax.models.classifier import ClassifierHead
from multimix_jax.models.decoder import Decoder
from multimix_jax.models.encoder import Encoder
from multimix_jax.models.multimix import MultiMix, MultiMixOutput, normalize
from multimix_jax.models.unet import UNet
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
