"""The published MultiMix in PyTorch and its training step in two forms: the peer of the benchmarks.

*Published* is the step of the released code without its slips: all 50 images go through the
encoder, the saliency pass and the decoder, in one call each, and back; eager, float32, NCHW.

*Best effort* does only the work whose result is used, as ours does: decoder and saliency for the 20
images to segment, the weak view without gradient and through encoder and classifier alone, one call
of the encoder for the 40 images that carry a gradient, no bias before an instance norm. Compiled,
channels last, with a fused Adam, in float32, or in bfloat16 under autocast.

Both get images that are augmented already, where our step augments its own: this favours PyTorch.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax
import jax
import numpy as np

try:
    import torch
except ModuleNotFoundError:
    sys.exit("torch is missing; pip install -e '.[bench]'")
import torch.nn.functional as F
from torch import nn

from benchmarks import measure

Tensor = torch.Tensor
# Forms of a training step, and of a prediction.
PUBLISHED, BEST, BEST_EAGER = "published", "best effort", "best effort, eager"
COMPILED, EAGER = "PyTorch, compiled", "PyTorch, eager"
FILTERS = (16, 32, 64, 128, 256)
LEARNING_RATE = 1e-4


class Block(nn.Module):
    """(3x3 convolution -> instance norm -> leaky ReLU .2) twice, then dropout.

    `lean` leaves out the convolution's bias, which the instance norm takes out again, and spells
    the norm out, since PyTorch's own would turn the tensor back from channels last.
    """

    def __init__(self, channels: int, features: int, dropout_rate: float, lean: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)
        self.dropout_rate, self.lean = dropout_rate, lean

    def forward(self, x: Tensor, dropout: bool) -> Tensor:
        for conv in (self.conv1, self.conv2):
            if self.lean:
                x = lean_instance_norm(F.conv2d(x, conv.weight, padding=1))
            else:
                x = F.instance_norm(conv(x))
            x = F.leaky_relu(x, 0.2, inplace=True)
        return F.dropout(x, self.dropout_rate, dropout)


def lean_instance_norm(x: Tensor) -> Tensor:
    """Zero mean and unit variance of each image and channel; statistics in float32 or wider."""
    wide = widen(x)
    variance, mean = torch.var_mean(wide, (2, 3), correction=0, keepdim=True)
    return ((wide - mean) * torch.rsqrt(variance + 1e-5)).to(x.dtype)


def widen(x: Tensor) -> Tensor:
    """bfloat16 -> float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class MultiMix(nn.Module):
    """The network, 1,965,155 parameters as published; images [B,1,H,W] are in [-1, 1].

    Attributes:
      bridge: whether the decoder gets [image, saliency] too.
      dropout_rate, lean: see `Block`.
    """

    def __init__(
        self, *, bridge: bool = True, dropout_rate: float = 0.25, lean: bool = False
    ) -> None:
        super().__init__()
        self.bridge = bridge
        block = functools.partial(Block, dropout_rate=dropout_rate, lean=lean)
        pairs = zip((1, *FILTERS), FILTERS)
        self.encoder = nn.ModuleDict({f"block{i}": block(*pair) for i, pair in enumerate(pairs, 1)})
        self.classifier = nn.ModuleDict({"logits": nn.Linear(FILTERS[-1], 2)})
        self.decoder = nn.ModuleDict()
        for stage, width in enumerate(FILTERS[-2::-1], 1):
            joined = 3 * width + (2 if bridge and stage == 1 else 0)
            self.decoder[f"block{stage}"] = block(joined, width)
        self.decoder["logits"] = nn.Conv2d(FILTERS[0], 1, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images -> probabilities of masks [B,1,H,W] and of classes [B,2], dropout off.

        The pass that the saliency goes back through gives the features too.
        """

        def score(x: Tensor) -> tuple[Tensor, Any]:
            features = self.encode(x)
            logits = self.classify(features)
            return logits.amax(1).sum(), (features, logits)

        if self.bridge:
            gradient, (features, logits) = torch.func.grad(score, has_aux=True)(images)
            masks = self.segment(images, features, gradient.abs())
        else:
            _, (features, logits) = score(images)
            masks = self.segment(images, features)
        return masks.sigmoid(), logits.softmax(1)

    def encode(self, images: Tensor, dropout: bool = False) -> list[Tensor]:
        """Features at 1, 1/2, 1/4, 1/8 and 1/16 of the side."""
        features: list[Tensor] = []
        for block in self.encoder.values():
            features.append(block(F.max_pool2d(features[-1], 2) if features else images, dropout))
        return features

    def classify(self, features: Sequence[Tensor]) -> Tensor:
        """Class logits [B,2], float32 or wider."""
        pooled = widen(F.max_pool2d(features[-1], 2)).mean((2, 3))
        return widen(self.classifier["logits"](pooled))

    def score(self, images: Tensor) -> Tensor:
        """The highest class logit of each image, summed, dropout off; its gradient is saliency."""
        return self.classify(self.encode(images)).amax(1).sum()

    def segment(
        self,
        images: Tensor,
        features: Sequence[Tensor],
        saliency: Tensor | None = None,
        dropout: bool = False,
    ) -> Tensor:
        """Mask logits [B,1,H,W], float32 or wider."""
        scale = functools.partial(F.interpolate, mode="bilinear", align_corners=True)
        x = features[-1]
        for stage, skip in enumerate(features[-2::-1], 1):
            parts = [scale(x, scale_factor=2), skip]
            if stage == 1 and saliency is not None:
                joined = torch.cat([images, saliency], 1)
                parts.append(scale(joined, scale_factor=0.125).to(skip.dtype))
            x = self.decoder[f"block{stage}"](torch.cat(parts, 1), dropout)
        return widen(self.decoder["logits"](x))


class Views(NamedTuple):
    """What a step gets.

    Attributes:
      images: [B,1,H,W] in [-1, 1] of each stream: segmentation labelled and unlabelled, classes
        labelled, classes unlabelled in the weak and in the strong view.
      mask: [B,1,H,W] of 0 and 1.
      label: [B].
    """

    images: tuple[Tensor, ...]
    mask: Tensor
    label: Tensor


def load_flax(model: nn.Module, params: Mapping[str, Any]) -> None:
    """Copies our weights: kernels of convolutions HWIO -> OIHW, the dense layer's transposed."""
    weights = {}
    for path, leaf in flax.traverse_util.flatten_dict(params, sep=".").items():
        value = np.asarray(leaf)
        if path.endswith("kernel"):
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        weights[path.replace("kernel", "weight")] = torch.tensor(value)
    model.load_state_dict(weights)


def load_views(batch: Mapping[str, Any], *, labeled: Any, weak: Any, strong: Any) -> Views:
    """Our batch on the device, with 8-bit views of its images to classify."""
    of_masks, without = batch["seg/labeled"], batch["seg/unlabeled"]
    images = of_masks["image"], without["image"], labeled, weak, strong
    mask = torch.tensor(np.asarray(of_masks["mask"]), device=device())
    label = torch.tensor(np.asarray(batch["cls/labeled"]["label"]), device=device())
    return Views(tuple(map(load_images, images)), mask.permute(0, 3, 1, 2).float(), label.long())


def load_images(images: Any) -> Tensor:
    """8-bit images [B,H,W,1] -> [B,1,H,W] in [-1, 1] on the device."""
    loaded = torch.tensor(np.asarray(images), device=device())
    return loaded.permute(0, 3, 1, 2) / 127.5 - 1.0


def device() -> torch.device:
    """Where JAX computes: the processor or the first GPU."""
    return torch.device("cpu" if jax.default_backend() == "cpu" else "cuda")


def reaches_device() -> bool:
    """Whether PyTorch can compute where JAX does; prints if it cannot."""
    reaches = device().type == "cpu" or torch.cuda.is_available()
    if not reaches:
        print("PyTorch has no CUDA here: its part is left out", file=sys.stderr)
    return reaches


@functools.cache
def compiles() -> bool:
    """Whether `torch.compile` works here; it needs a C++ compiler, or Triton on a GPU."""
    try:
        torch.compile(lambda x: x + 1)(torch.ones(1, device=device()))
    except torch._dynamo.exc.TorchDynamoException as error:
        print(f"torch.compile fails, so PyTorch runs eagerly: {error}", file=sys.stderr)
        return False
    return True


def compiled(function: Any) -> Any:
    """The function as one program for each shape that it meets."""
    torch._dynamo.config.recompile_limit = 64  # shapes, before PyTorch gives up
    return torch.compile(function, dynamic=False, fullgraph=True)


def peak_memory() -> float:
    """Largest memory of PyTorch on a GPU, or of this process, so far, in bytes."""
    if device().type == "cuda":
        return float(torch.cuda.max_memory_allocated())
    return measure.peak_memory()


def losses(
    mask_logits: Tensor, labeled: Tensor, weak: Tensor, strong: Tensor, views: Views
) -> dict[str, Tensor]:
    """The weighted terms of the loss, by our names.

    Args:
      mask_logits: of the labelled images, then of the unlabelled ones.
      labeled, weak, strong: class logits of these views.
      views: have the truth.
    """
    mask = views.mask
    of_labeled, of_unlabeled = mask_logits.chunk(2)
    p = of_labeled.sigmoid()
    overlap, total = (p * mask).sum((2, 3)), p.sum((2, 3)) + mask.sum((2, 3))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    inside = F.logsigmoid(of_labeled) - F.logsigmoid(of_unlabeled)
    outside = F.logsigmoid(-of_labeled) - F.logsigmoid(-of_unlabeled)
    kl = p * inside + (1 - p) * outside
    confidence, pseudo_label = weak.detach().softmax(1).max(1)
    pseudo = F.cross_entropy(strong, pseudo_label, reduction="none") * (confidence >= 0.7)
    return {
        "seg/dice": 5 * dice.mean(),
        "seg/kl": 0.01 * kl.mean(),
        "cls/cross_entropy": F.cross_entropy(labeled, views.label),
        "cls/pseudo_label": 0.25 * pseudo.mean(),
    }


def published_losses(model: MultiMix, views: Views) -> dict[str, Tensor]:
    """The terms of the loss, with everything computed for all images."""
    images = torch.cat(views.images)
    watched = images.clone().requires_grad_()
    saliency = torch.autograd.grad(model.score(watched), watched)[0].abs()
    features = model.encode(images, dropout=True)
    masks = model.segment(images, features, saliency, dropout=True)
    seg_labeled, seg_unlabeled, *_ = masks.chunk(5)
    _, _, labeled, weak, strong = model.classify(features).chunk(5)
    return losses(torch.cat([seg_labeled, seg_unlabeled]), labeled, weak, strong, views)


def best_effort_losses(model: MultiMix, views: Views, autocast: bool = False) -> dict[str, Tensor]:
    """The terms of the loss, with nothing computed that is not used; for `torch.compile`.

    `torch.func.grad` keeps all of it in one compiled graph; `torch.autograd.grad` would break it.
    """
    *_, cls_labeled, weak_view, strong_view = views.images
    with torch.autocast(views.mask.device.type, torch.bfloat16, enabled=autocast):
        to_segment = torch.cat(views.images[:2])
        with torch.no_grad():
            saliency = torch.func.grad(model.score)(to_segment).abs()
            weak = model.classify(model.encode(weak_view, dropout=True))
        images = torch.cat([to_segment, cls_labeled, strong_view])
        features = model.encode(images, dropout=True)
        of_seg = [level[: len(to_segment)] for level in features]
        masks = model.segment(to_segment, of_seg, saliency, dropout=True)
        labeled, strong = model.classify([features[-1][len(to_segment) :]]).chunk(2)
    return losses(masks, labeled, weak, strong, views)


class Step:
    """One training step with Adam each time it is called."""

    def __init__(self, form: str, params: Mapping[str, Any], views: Views, dtype: str) -> None:
        """Args:
        form: PUBLISHED, BEST, or BEST_EAGER.
        params: our weights.
        views: a batch.
        dtype: of the best effort, 'float32' or 'bfloat16'.
        """
        best = form != PUBLISHED
        self.model, self.views = MultiMix(lean=best), views
        load_flax(self.model, params)
        self.model.to(device())
        self.losses: Any = published_losses
        if best:
            torch.backends.cudnn.benchmark = True  # looks for the fastest convolutions
            layout: Any = {"memory_format": torch.channels_last}
            self.model.to(**layout)
            self.views = views._replace(images=tuple(x.to(**layout) for x in views.images))
            self.losses = functools.partial(best_effort_losses, autocast=dtype == "bfloat16")
        if form == BEST:
            self.losses = compiled(self.losses)
        fused = True if best else None  # None is PyTorch's choice
        self.optimizer = torch.optim.Adam(self.model.parameters(), LEARNING_RATE, fused=fused)

    def __call__(self) -> float:
        self.optimizer.zero_grad()
        loss = sum(self.losses(self.model, self.views).values())
        loss.backward()
        self.optimizer.step()
        return loss.item()  # done when it is known


def convolutions(shapes: Sequence[tuple[int, int, int, int]], dtype: str) -> Any:
    """3x3 convolutions of noise, one after the other; each (images, side, channels, features)."""
    kind: Any = {"dtype": getattr(torch, dtype), "device": device()}
    layout: Any = {"memory_format": torch.channels_last}
    operands = [
        (
            torch.randn(images, channels, side, side, **kind).to(**layout),
            torch.randn(features, channels, 3, 3, **kind).to(**layout),
        )
        for images, side, channels, features in shapes
    ]

    def program() -> float:
        with torch.no_grad():
            for x, kernel in operands:
                y = F.conv2d(x, kernel, padding=1)
        return y[0, 0, 0, 0].item()  # done when it is known

    return program


def predict(model: MultiMix, images: Tensor, autocast: bool) -> tuple[Tensor, Tensor]:
    """Probabilities of masks and classes, see `MultiMix.forward`."""
    with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
        return model(images)


class Prediction:
    """Predicts for the same images each time it is called."""

    def __init__(
        self, form: str, params: Mapping[str, Any], images: Any, dtype: str, bridge: bool
    ) -> None:
        """Args:
        form: COMPILED, or EAGER, where PyTorch's own norm and NCHW are faster.
        params: our weights.
        images: 8-bit [B,H,W,1].
        dtype: 'float32' or 'bfloat16'.
        bridge: whether with saliency.
        """
        self.model = MultiMix(bridge=bridge, lean=form == COMPILED)
        load_flax(self.model, params)
        self.model.to(device()).requires_grad_(False)
        self.images, self.autocast = load_images(images), dtype == "bfloat16"
        self.predict: Any = predict
        if form == COMPILED:
            layout: Any = {"memory_format": torch.channels_last}
            self.model.to(**layout)
            self.images = self.images.to(**layout)
            self.predict = compiled(predict)

    def __call__(self) -> Tensor:
        _, classes = self.predict(self.model, self.images, self.autocast)
        return classes.cpu()  # done when they are known
