"""Parameters of `MultiMix` in the names and layout of the authors' released PyTorch code, and back.

Their state dict names a block's two convolutions `encoder.dconv_down1.0`, `.3` (the levels from the
top down) and `decoder.dconv_up4.0`, `.3` (the stages from the deepest, 4, up to 1), the classifier
`encoder.fc`, and the decoder's 1x1 convolution `decoder.conv_last`. It may hold an unused
`decoder.conv_last_saliency`.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax
import numpy as np

from multimix_jax.errors import UsageError

Shape = tuple[int, ...]

_UNUSED = "decoder.conv_last_saliency."
_LEVEL = re.compile(r"encoder\.dconv_down(\d{1,2})\.", re.ASCII)
_MAX_FAULTS = 40  # in one message


def from_torch(state: Mapping[str, np.ndarray]) -> Any:
    """The authors' state dict -> `params` of a `MultiMix` of that shape, in float32.

    Depth, widths, channels, and which of classifier, decoder and bridge there are follow from the
    tensors: convolutions [out, in, 3, 3], `encoder.fc.weight` [classes, features]. UsageError names
    the missing, surplus and misshapen ones.
    """
    state = {name: value for name, value in state.items() if not name.startswith(_UNUSED)}
    depth = max((int(match[1]) for match in map(_LEVEL.match, state) if match), default=0)
    has = lambda part: any(name.startswith(part) for name in state)
    tensors = _tensors(state, depth, classifier=has("encoder.fc."), decoder=has("decoder."))
    faults = [f"{name} is missing" for name in tensors if name not in state]
    faults += [f"{printable(name)} is surplus" for name in state if name not in tensors]
    if not (faults or depth):
        faults = ["there is no encoder.dconv_down1.0.weight"]
    if not faults:
        faults = [
            f"{name} is {list(state[name].shape)} where {list(shape)} is due"
            for name, (_, shape) in tensors.items()
            if state[name].shape != shape
        ]
    if not faults:
        with np.errstate(over="ignore"):
            state = {name: np.asarray(value, np.float32) for name, value in state.items()}
        faults = [
            f"{name} holds values that are not finite"
            for name, value in state.items()
            if not np.isfinite(value).all()
        ]
    if faults:
        more = f"; and {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
        raise UsageError(f"not the weights of a MultiMix: {'; '.join(faults[:_MAX_FAULTS])}{more}")
    params = {path: _transposed(state[name], (2, 3, 1, 0)) for name, (path, _) in tensors.items()}
    return flax.traverse_util.unflatten_dict(params, sep="/")


def to_torch(params: Any) -> dict[str, np.ndarray]:
    """Our parameters -> the authors' state dict, in float32; the inverse of `from_torch`."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    tensors = _tensors({}, len(params["encoder"]), "classifier" in params, "decoder" in params)
    arrays = {name: np.asarray(flat[path], np.float32) for name, (path, _) in tensors.items()}
    return {name: _transposed(value, (3, 2, 0, 1)) for name, value in arrays.items()}


def printable(name: str) -> str:
    """A name that a damaged file may have filled with anything."""
    return name.encode("unicode_escape").decode()[:100]


def _transposed(value: np.ndarray, axes: Shape) -> np.ndarray:
    """A convolution with its axes in that order; of a dense layer or a bias, the reverse."""
    return value.transpose(axes) if value.ndim == 4 else value.T


def _tensors(
    state: Mapping[str, np.ndarray], depth: int, classifier: bool, decoder: bool
) -> dict[str, tuple[str, Shape]]:
    """By their name our path, and the shape that fits the encoder's widths in `state`, and the
    channels of its first layer and its last ones."""
    size = lambda name, axis: (state[name].shape + (0, 0))[axis] if name in state else 0
    widths = [size(f"encoder.dconv_down{i}.0.weight", 0) for i in range(1, depth + 1)]
    images = size("encoder.dconv_down1.0.weight", 1)
    tensors: dict[str, tuple[str, Shape]] = {}

    def add(layer: str, path: str, *shape: int) -> None:
        tensors[f"{layer}.weight"] = f"{path}/kernel", shape
        tensors[f"{layer}.bias"] = f"{path}/bias", shape[:1]

    def add_block(block: str, path: str, channels: int, width: int) -> None:
        add(f"{block}.0", f"{path}/conv1", width, channels, 3, 3)
        add(f"{block}.3", f"{path}/conv2", width, width, 3, 3)

    for i, (channels, width) in enumerate(zip([images, *widths], widths), 1):
        add_block(f"encoder.dconv_down{i}", f"encoder/block{i}", channels, width)
    if classifier:
        add("encoder.fc", "classifier/logits", size("encoder.fc.weight", 0), *widths[-1:])
    if decoder:
        for i in range(depth - 1, 0, -1):
            joined = widths[i] + widths[i - 1]
            # Image and saliency join the first stage.
            if i == depth - 1 and size(f"decoder.dconv_up{i}.0.weight", 1) != joined:
                joined += images + 1
            add_block(f"decoder.dconv_up{i}", f"decoder/block{depth - i}", joined, widths[i - 1])
        logits = size("decoder.conv_last.weight", 0)
        add("decoder.conv_last", "decoder/logits", logits, *widths[:1], 1, 1)
    return tensors
