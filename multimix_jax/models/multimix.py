"""MultiMix: one encoder, a classifier, a saliency bridge and a decoder."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import chex
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from multimix_jax.errors import UsageError
from multimix_jax.models.blocks import initializers
from multimix_jax.models.bridge import SaliencyBridge, saliency_map
from multimix_jax.models.unet import PUBLISHED_FILTERS, Decoder, Encoder
from multimix_jax.ops.pooling import max_pool


def normalize(images: jax.Array) -> jax.Array:
    """8-bit images (0..255) -> float32 in [-1, 1], the one range of both tasks."""
    return images.astype(jnp.float32) / 127.5 - 1.0


@flax.struct.dataclass
class MultiMixOutput:
    """Outputs for `B` images; None for a part that the network was built without."""

    mask_logits: jax.Array | None  # [B,H,W,mask_channels]
    class_logits: jax.Array | None  # [B,K]
    saliency: jax.Array | None  # [B,H,W,1], zero or more


class MultiMix(nn.Module):
    """Joint classifier and segmenter of Haque et al. 2021 (ISBI; MELBA 2021:011).

    With no arguments it is the published network (1,965,155 parameters). With parts left out it is
    another system of the published tables: a plain U-Net has neither classifier nor bridge.
    """

    filters: Sequence[int] = PUBLISHED_FILTERS  # channels per level; their number is the depth
    in_channels: int = 1
    num_classes: int = 2  # in the published network normal, pneumonia
    mask_channels: int = 1
    use_classifier: bool = True
    use_decoder: bool = True
    use_bridge: bool = True
    bridge_gradient: bool = False  # through the saliency map (second order)
    dropout_rate: float = 0.25  # after each block, on when `dropout_keys` are given
    initializer: str = "torch"  # as published, or "flax"
    dtype: Any = jnp.float32  # of the computation, or bfloat16; parameters stay float32
    make_encoder: Callable[[], Any] | None = None  # of another (images, keys) -> features by level

    def setup(self) -> None:
        if self.use_bridge and not (self.use_classifier and self.use_decoder):
            raise UsageError(
                "use_bridge=True needs use_classifier=True and use_decoder=True: the bridge runs "
                "from one to the other (config.model)"
            )
        common = {"initializer": self.initializer, "dtype": self.dtype}
        own = functools.partial(Encoder, self.filters, self.dropout_rate, **common)
        self.encoder = (self.make_encoder or own)()
        if self.use_classifier:
            self.classifier = ClassifierHead(self.num_classes, **common)
        if self.use_bridge:
            self.bridge = SaliencyBridge(2 ** (len(self.filters) - 2))
        if self.use_decoder:
            self.decoder = Decoder(
                tuple(self.filters[-2::-1]), self.mask_channels, self.dropout_rate, **common
            )

    def __call__(self, images: jax.Array, dropout_keys: jax.Array | None = None) -> MultiMixOutput:
        """Images [B,H,W,in_channels] in [-1, 1]; H and W are multiples of 2^(depth - 1), 32 or more
        with the published depth."""
        features = self.encode(images, dropout_keys)
        class_logits = self.classify(features) if self.use_classifier else None
        saliency = self.saliency(images)
        mask_logits = None
        if self.use_decoder:
            mask_logits = self.segment(images, features, saliency, dropout_keys)
        return MultiMixOutput(mask_logits, class_logits, saliency)

    def encode(
        self, images: jax.Array, dropout_keys: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """Images -> features of every level, see `Encoder`."""
        chex.assert_rank(images, 4)
        height, width, channels = images.shape[1:]
        factor = 2 ** (len(self.filters) - 1)
        # The classifier pools once more.
        smallest = 2 * factor if self.use_classifier else factor
        if height % factor or width % factor or min(height, width) < smallest:
            raise UsageError(
                f"images are {height}x{width}, but each side must be a multiple of {factor} and at "
                f"least {smallest}; change config.size or the number of config.model.filters"
            )
        if channels != self.in_channels:
            raise UsageError(
                f"images have {channels} channels, but the model takes {self.in_channels}; set "
                "config.model.in_channels"
            )
        return self.encoder(images, dropout_keys)

    def classify(self, features: Sequence[jax.Array]) -> jax.Array:
        """Features of every level -> class logits [B,K]."""
        return self.classifier(features[-1])

    def saliency(self, images: jax.Array) -> jax.Array | None:
        """Images -> `saliency_map` [B,H,W,1], dropout off; None without a bridge."""
        if not self.use_bridge:
            return None
        if self.is_initializing():
            return jnp.zeros((*images.shape[:-1], 1), images.dtype)
        # Unbound copies, because a Flax module may not be called inside another's transformation.
        encoder, encoder_variables = self.encoder.unbind()
        classifier, classifier_variables = self.classifier.unbind()

        def score(x: jax.Array) -> Any:
            features: Any = encoder.apply(encoder_variables, x)
            return classifier.apply(classifier_variables, features[-1])

        return saliency_map(score, images, differentiable=self.bridge_gradient)

    def segment(
        self,
        images: jax.Array,
        features: Sequence[jax.Array],
        saliency: jax.Array | None = None,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Features, and for the bridge images and saliency -> mask logits [B,H,W,C']."""
        joined = None if saliency is None else self.bridge(images, saliency)
        return self.decoder(features, joined, dropout_keys)


class ClassifierHead(nn.Module):
    """2x2 max-pool -> global average pool -> dense."""

    num_classes: int = 2
    initializer: str = "torch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [B,h,w,C] with h, w >= 2 -> logits [B,K], always float32."""
        x = max_pool(features).astype(jnp.float32).mean(axis=(1, 2))
        inits = initializers(self.initializer, x.shape[-1])
        x = nn.Dense(self.num_classes, dtype=self.dtype, name="logits", **inits)(x)
        return x.astype(jnp.float32)
