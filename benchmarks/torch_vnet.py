"""V-Net in PyTorch, in two and three dimensions: the oracle of the parity tests, and the peer."""

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import numpy as np

try:
    import torch
except ModuleNotFoundError:
    sys.exit("torch is missing; pip install -e '.[bench]'")
from torch import nn

Tensor = torch.Tensor


class VNet(nn.Module):
    """See `multimix_jax.models.VNet`; batch norm, images [B,1,(D,)H,W], dropout off.

    Attributes:
      convolutions: of each level.
      heads: names of the outputs.
    """

    def __init__(
        self,
        dims: int,
        *,
        heads: Sequence[str] = ("mask",),
        filters: int = 16,
        convolutions: Sequence[int] = (1, 2, 3, 3, 3),
    ) -> None:
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        transposed = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dims]
        norm = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims]
        self.convolutions, self.heads = tuple(convolutions), tuple(heads)
        self.layers = nn.ModuleDict()

        def add(name: str, layer: nn.Module, features: int) -> None:
            self.layers[f"{name}_conv"] = layer
            self.layers[f"{name}_norm"] = norm(features)

        depth = len(self.convolutions)
        width = lambda level: filters * 2**level
        for level, count in enumerate(self.convolutions):
            if level:
                add(f"down{level}", conv(width(level - 1), width(level), 2, 2), width(level))
            for part in ("encoder", "decoder"):
                if part == "decoder" and level == depth - 1:
                    continue
                for index in range(1, count + 1):
                    first = 1 if part == "encoder" and level == 0 and index == 1 else width(level)
                    layer = conv(first, width(level), 3, padding=1)
                    add(f"{part}{level}_{index}", layer, width(level))
            if level < depth - 1:
                up = transposed(width(level + 1), width(level), 2, 2)
                add(f"up{level}", up, width(level))
        for head in heads:
            self.layers[head] = conv(filters, 1, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images -> logits, or the distance map, of each head."""

        def block(x: Tensor, name: str) -> Tensor:
            return torch.relu(self.layers[f"{name}_norm"](self.layers[f"{name}_conv"](x)))

        def level(x: Tensor, part: str, at: int) -> Tensor:
            for index in range(1, self.convolutions[at] + 1):
                x = block(x, f"{part}{at}_{index}")
            return x

        x, skips = images, []
        for at in range(len(self.convolutions)):
            if at:
                skips.append(x)
                x = block(x, f"down{at}")
            x = level(x, "encoder", at)
        for at in reversed(range(len(skips))):
            x = level(block(x, f"up{at}") + skips[at], "decoder", at)
        outputs = {head: self.layers[head](x) for head in self.heads}
        return {head: torch.tanh(y) if head == "sdf" else y for head, y in outputs.items()}


def load_flax(model: VNet, variables: Mapping[str, Any]) -> None:
    """Copies our weights and running statistics: kernels [*k,in,out] -> [out,in,*k].

    PyTorch's transposed convolution has [in,out].
    """
    names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    weights = {}
    for collection in ("params", "batch_stats"):
        flat = flax.traverse_util.flatten_dict(dict(variables[collection]), sep=".")
        for path, leaf in flat.items():
            layer, _, kind = path.rpartition(".")
            value = np.asarray(leaf)
            if kind == "kernel":
                value = np.moveaxis(value, (-1, -2), (0, 1))
                if layer.startswith("up"):
                    value = value.swapaxes(0, 1)
            weights[f"layers.{layer}.{names.get(kind, 'weight')}"] = torch.tensor(value.copy())
    missing, surplus = model.load_state_dict(weights, strict=False)
    counters = [name for name in missing if not name.endswith("num_batches_tracked")]
    assert not counters and not surplus, (counters, surplus)


class Step:
    """One training step of DTML on the same batch each time, dropout off; see `DtmlObjective`."""

    def __init__(
        self, objective: Any, variables: Mapping[str, Any], batch: Any, *, channels_last: bool
    ) -> None:
        labeled, unlabeled = batch["seg/labeled"], batch["seg/unlabeled"]
        images = np.concatenate([labeled["image"], unlabeled["image"]])
        self.format = torch.channels_last_3d if channels_last else torch.contiguous_format
        self.images = self._tensor(images)
        self.mask = self._tensor(labeled["mask"].astype(np.float32))
        self.sharpness, self.weight = objective.sharpness, objective.mutual_weight * np.exp(-5)
        self.models = nn.ModuleDict(make_networks(objective, variables))
        layout: Any = {"device": device(), "memory_format": self.format}
        self.models.to(**layout).train()
        self.optimizer = torch.optim.SGD(
            self.models.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4
        )

    def _tensor(self, values: np.ndarray) -> Tensor:
        moved = torch.tensor(values).movedim(-1, 1)
        return moved.to(device()).contiguous(memory_format=self.format)

    def __call__(self) -> None:
        outputs = {n: next(iter(net(self.images).values())) for n, net in self.models.items()}
        count = len(self.mask)
        soft, inside = outputs["seg"].sigmoid(), torch.sigmoid(-self.sharpness * outputs["sdf"])
        entropy = nn.functional.binary_cross_entropy_with_logits(outputs["seg"][:count], self.mask)
        loss = (entropy + squared_dice(soft[:count], self.mask)) / 2
        loss = loss + squared_dice(inside[:count], self.mask)
        loss = loss + self.weight * (inside - soft).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        synchronize()


class SlidingWindow:
    """Probabilities of a volume [X,Y,Z,1], one window at a time, averaged on the host."""

    def __init__(
        self,
        objective: Any,
        variables: Mapping[str, Any],
        patch: Sequence[int],
        stride: Sequence[int],
    ) -> None:
        self.net = make_networks(objective, variables)["seg"].to(device()).eval()
        self.patch, self.stride = patch, stride

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        sums, counts = np.zeros(image.shape, np.float32), np.zeros(image.shape, np.float32)
        axes = []
        for size, side, step in zip(image.shape, self.patch, self.stride):
            last = size - side
            axes.append([min(step * n, last) for n in range(-(-last // step) + 1)])
        for start in itertools.product(*axes):
            at = tuple(slice(s, s + side) for s, side in zip(start, self.patch))
            window = torch.tensor(image[at][None, None, ..., 0]).to(device())
            sums[at][..., 0] += self.net(window)["mask"].sigmoid()[0, 0].cpu().numpy()
            counts[at] += 1
        return sums / counts


def make_networks(objective: Any, variables: Mapping[str, Any]) -> dict[str, VNet]:
    """Networks with our weights."""
    networks = {}
    for name, net in (("seg", objective.seg), ("sdf", objective.sdf)):
        if net is not None:
            shape = dict(filters=net.filters, convolutions=net.convolutions, heads=net.heads)
            networks[name] = VNet(len(objective.patch), **shape)
            own = {kind: values[name] for kind, values in variables.items()}
            load_flax(networks[name], own)
    return networks


def squared_dice(probability: Tensor, mask: Tensor) -> Tensor:
    """See `multimix_jax.losses.squared_dice_loss`; the mean over images."""
    pixels = tuple(range(1, mask.ndim))
    overlap = (probability * mask).sum(pixels)
    total = probability.square().sum(pixels) + mask.square().sum(pixels)
    return (1 - (2 * overlap + 1e-5) / (total + 1e-5)).mean()


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
