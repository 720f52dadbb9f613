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
    """The authors' state dict -> our parameters, in float32.

    Depth, widths, channels, and which of classifier, decoder and bridge there are follow from the
    tensors.

    Args:
      state: arrays by name; convolutions [out, in, 3, 3], `encoder.fc.weight` [classes, features].

    Returns:
      `params` of a `MultiMix` of that shape.

    Raises:
      UsageError: names the missing, surplus and misshapen tensors.
    """
    state = {name: value for name, value in state.items() if not name.startswith(_UNUSED)}
    depth = max((int(match[1]) for match in map(_LEVEL.match, state) if match), default=0)
    has = lambda part: any(name.startswith(part) for name in state)
    paths = _paths(depth, classifier=has("encoder.fc."), decoder=has("decoder."))
    faults = [f"{name} is missing" for name in paths if name not in state]
    faults += [f"{printable(name)} is surplus" for name in state if name not in paths]
    if not (faults or depth):
        faults = ["there is no encoder.dconv_down1.0.weight"]
    if not faults:
        faults = [
            f"{name} is {list(state[name].shape)} where {list(shape)} is due"
            for name, shape in _shapes(state, depth).items()
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
    params = {path: _transposed(state[name], (2, 3, 1, 0)) for name, path in paths.items()}
    return flax.traverse_util.unflatten_dict(params, sep="/")


def to_torch(params: Any) -> dict[str, np.ndarray]:
    """Our parameters -> the authors' state dict, in float32; the inverse of `from_torch`."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    paths = _paths(len(params["encoder"]), "classifier" in params, "decoder" in params)
    arrays = {name: np.asarray(flat[path], np.float32) for name, path in paths.items()}
    return {name: _transposed(value, (3, 2, 0, 1)) for name, value in arrays.items()}


def printable(name: str) -> str:
    """A name that a damaged file may have filled with anything."""
    return name.encode("unicode_escape").decode()[:100]


def _transposed(value: np.ndarray, axes: Shape) -> np.ndarray:
    """A convolution with its axes in that order; of a dense layer or a bias, the reverse."""
    return value.transpose(axes) if value.ndim == 4 else value.T


def _paths(depth: int, classifier: bool, decoder: bool) -> dict[str, str]:
    """Path of ours for each of their names."""
    blocks = {f"encoder.dconv_down{i}": f"encoder/block{i}" for i in range(1, depth + 1)}
    layers = {"encoder.fc": "classifier/logits"} if classifier else {}
    if decoder:
        blocks |= {f"decoder.dconv_up{depth - i}": f"decoder/block{i}" for i in range(1, depth)}
        layers["decoder.conv_last"] = "decoder/logits"
    for block, path in blocks.items():
        layers |= {f"{block}.0": f"{path}/conv1", f"{block}.3": f"{path}/conv2"}
    return {
        f"{layer}.{theirs}": f"{path}/{ours}"
        for layer, path in layers.items()
        for theirs, ours in (("weight", "kernel"), ("bias", "bias"))
    }


def _shapes(state: Mapping[str, np.ndarray], depth: int) -> dict[str, Shape]:
    """Shapes that fit the encoder's widths, and the first layer's and the last layers' channels."""
    size = lambda name, axis: (state[name].shape + (0, 0))[axis] if name in state else 0
    widths = [size(f"encoder.dconv_down{i}.0.weight", 0) for i in range(1, depth + 1)]
    images = size("encoder.dconv_down1.0.weight", 1)
    shapes: dict[str, Shape] = {}

    def add(layer: str, features: int, channels: int, *kernel: int) -> None:
        shapes[f"{layer}.weight"] = (features, channels, *kernel)
        shapes[f"{layer}.bias"] = (features,)

    def add_block(block: str, channels: int, width: int) -> None:
        add(f"{block}.0", width, channels, 3, 3)
        add(f"{block}.3", width, width, 3, 3)

    for i, (channels, width) in enumerate(zip([images, *widths], widths), 1):
        add_block(f"encoder.dconv_down{i}", channels, width)
    add("encoder.fc", size("encoder.fc.weight", 0), widths[-1])
    for i in range(depth - 1, 0, -1):
        joined = widths[i] + widths[i - 1]
        # Image and saliency join the first stage.
        if i == depth - 1 and size(f"decoder.dconv_up{i}.0.weight", 1) != joined:
            joined += images + 1
        add_block(f"decoder.dconv_up{i}", joined, widths[i - 1])
    add("decoder.conv_last", size("decoder.conv_last.weight", 0), widths[0], 1, 1)
    return {name: shape for name, shape in shapes.items() if name in state}
