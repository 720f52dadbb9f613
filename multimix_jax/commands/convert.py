"""Weights to and from the PyTorch format of the authors' released code.

Their state dict names a block's two convolutions `encoder.dconv_down1.0`, `.3` (the levels from the
top down) and `decoder.dconv_up4.0`, `.3` (the stages from the deepest, 4, up to 1), the classifier
`encoder.fc`, and the decoder's 1x1 convolution `decoder.conv_last`. It may hold an unused
`decoder.conv_last_saliency`.

    multimix-convert state_dict.pth OUT    # a folder for launch.py --mode=eval
    multimix-convert RUN state_dict.pth    # the best weights of a run, or --last
"""

import argparse
import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax
import numpy as np
import optax

from multimix_jax import atomic
from multimix_jax.commands.ends import ends_quietly
from multimix_jax.errors import UsageError
from multimix_jax.names import Checkpoint
from multimix_jax.runs import workdir
from multimix_jax.state import TrainState
from multimix_jax.training.checkpoint import Checkpoints, read_variables
from multimix_jax.training.loop import Progress

PyTree = Any
Shape = tuple[int, ...]

_UNUSED = "decoder.conv_last_saliency."
_LEVEL = re.compile(r"encoder\.dconv_down(\d{1,2})\.", re.ASCII)
_CONVOLUTIONS = {"0": "conv1", "3": "conv2"}
_SHOWN = 40  # faults
_LEAVES = {"weight": "kernel", "bias": "bias"}


def from_torch(state: Mapping[str, np.ndarray]) -> PyTree:
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
    faults += [f"{_printable(name)} is surplus" for name in state if name not in paths]
    if depth and not faults:
        faults = [
            f"{name} is {list(state[name].shape)} where {list(shape)} is due"
            for name, shape in _shapes(state, depth).items()
            if state[name].shape != shape
        ]
    if depth and not faults:
        with np.errstate(over="ignore"):
            state = {name: np.asarray(value, np.float32) for name, value in state.items()}
        faults = [
            f"{name} holds values that are not finite"
            for name, value in state.items()
            if not np.isfinite(value).all()
        ]
    if faults or not depth:
        faults = faults or ["there is no encoder.dconv_down1.0.weight"]
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise UsageError(f"not the weights of a MultiMix: {'; '.join(faults[:_SHOWN])}{more}")
    params = {path: _to_flax(state[name]) for name, path in paths.items()}
    return flax.traverse_util.unflatten_dict(params, sep="/")


def _printable(name: str) -> str:
    """A name that a damaged file may have filled with anything."""
    return name.encode("unicode_escape").decode()[:100]


def to_torch(params: PyTree) -> dict[str, np.ndarray]:
    """Our parameters -> the authors' state dict, in float32; the inverse of `from_torch`."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    paths = _paths(len(params["encoder"]), "classifier" in params, "decoder" in params)
    return {name: _to_torch(np.asarray(flat[path], np.float32)) for name, path in paths.items()}


def _paths(depth: int, classifier: bool, decoder: bool) -> dict[str, str]:
    """Path of ours for each of their names."""
    blocks = {f"encoder.dconv_down{i}": f"encoder/block{i}" for i in range(1, depth + 1)}
    layers = {"encoder.fc": "classifier/logits"} if classifier else {}
    if decoder:
        blocks |= {f"decoder.dconv_up{depth - i}": f"decoder/block{i}" for i in range(1, depth)}
        layers["decoder.conv_last"] = "decoder/logits"
    for block, path in blocks.items():
        layers |= {f"{block}.{i}": f"{path}/{conv}" for i, conv in _CONVOLUTIONS.items()}
    return {
        f"{layer}.{theirs}": f"{path}/{ours}"
        for layer, path in layers.items()
        for theirs, ours in _LEAVES.items()
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


def _to_flax(value: np.ndarray) -> np.ndarray:
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def _to_torch(value: np.ndarray) -> np.ndarray:
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T


def read_params(path: pathlib.Path) -> PyTree:
    """PyTorch file -> our parameters; see `from_torch`.

    Raises:
      UsageError: the file is not the weights of a MultiMix.
    """
    state = read_torch(path)
    try:
        return from_torch(state)
    except UsageError as error:
        raise UsageError(f"{path} holds {error}; name a state dict of the authors' code") from error


def read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch file; nothing in it is run.

    Raises:
      UsageError: the file is missing or holds anything else.
    """
    torch = _torch()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {str(name): _array(str(name), value) for name, value in state.items()}
    except Exception as error:  # PyTorch raises many kinds for a file that is none of its own
        reason = str(error).strip().splitlines()[:1]
        raise UsageError(
            f"{path} holds no PyTorch state dict ({', '.join([type(error).__name__, *reason])}); "
            "save model.state_dict() with torch.save"
        ) from error


def _array(name: str, tensor: Any) -> np.ndarray:
    """One tensor, unless it claims more numbers than the file holds of it."""
    if tensor.is_complex():
        raise ValueError(f"{_printable(name)} holds complex numbers")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(
            f"{_printable(name)} claims to be {list(tensor.shape)}, more than the file holds"
        )
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == _torch().bfloat16 else tensor).numpy()


def write_torch(path: pathlib.Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes tensors as a PyTorch file, whole or not at all."""
    torch = _torch()
    with atomic.replacing(path) as temporary:
        torch.save({name: torch.tensor(value) for name, value in state.items()}, temporary)


def _torch() -> Any:
    try:
        import torch  # here, since nothing else needs it
    except ModuleNotFoundError as error:
        raise UsageError("PyTorch files need PyTorch: pip install torch") from error
    return torch


def to_checkpoint(source: pathlib.Path, target: pathlib.Path) -> None:
    """PyTorch file -> folder whose checkpoint evaluation and prediction accept.

    Raises:
      UsageError: the file is not the weights of a MultiMix, or the folder is not empty.
    """
    workdir.check_new(target)
    params = read_params(source)
    state = TrainState.create({"params": params}, optax.identity())
    with Checkpoints(target) as checkpoints:
        checkpoints.save(Checkpoint.LAST, state, dataclasses.asdict(Progress()))
    atomic.write_json(target / workdir.CONVERTED, {"source": source.name})


def to_torch_file(source: pathlib.Path, which: str, target: pathlib.Path) -> None:
    """Best or last weights of a run -> PyTorch file.

    Raises:
      UsageError: the folder holds no such checkpoint.
    """
    if target.exists() or not target.parent.is_dir():
        raise UsageError(f"{target} exists already, or its folder does not; name a new file")
    _, variables = read_variables(source, which)
    write_torch(target, to_torch(variables["params"]))


@ends_quietly()
def main() -> None:
    """Command line, see the top of the file."""
    parser = argparse.ArgumentParser(
        prog="multimix-convert",
        description="Weights from and to the PyTorch format of the authors' released code.",
        epilog="example: multimix-convert state_dict.pth OUT",
    )
    parser.add_argument("source", type=pathlib.Path, help="PyTorch state dict, or folder of a run")
    parser.add_argument("target", type=pathlib.Path, help="new folder, or PyTorch file to write")
    parser.add_argument(
        "--last", action="store_true", help="the last weights of a run, not the best"
    )
    arguments = parser.parse_args()
    source, target = arguments.source, arguments.target
    try:
        if source.is_dir():
            to_torch_file(source, Checkpoint.LAST if arguments.last else Checkpoint.BEST, target)
        else:
            to_checkpoint(source, target)
    except UsageError as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{target} is written")


if __name__ == "__main__":
    main()
