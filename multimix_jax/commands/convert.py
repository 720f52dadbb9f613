"""Weights to and from the PyTorch format of the authors' released code.

multimix-convert state_dict.pth OUT    # a folder for launch.py --mode=eval
multimix-convert RUN state_dict.pth    # the best weights of a run, or --last
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import optax

from multimix_jax import atomic
from multimix_jax.commands.ends import ends_quietly, make_parser
from multimix_jax.errors import UsageError
from multimix_jax.models.torch_weights import from_torch, printable, to_torch
from multimix_jax.names import Checkpoint
from multimix_jax.runs import workdir
from multimix_jax.state import TrainState
from multimix_jax.training.checkpoint import Checkpoints, read_variables
from multimix_jax.training.loop import Progress


def to_checkpoint(source: pathlib.Path, target: pathlib.Path) -> None:
    """PyTorch file -> folder whose checkpoint evaluation and prediction accept."""
    workdir.check_new(target)
    state = TrainState.create({"params": read_params(source)}, optax.identity())
    with Checkpoints(target) as checkpoints:
        checkpoints.save(Checkpoint.LAST, state, dataclasses.asdict(Progress()))
    atomic.write_json(target / workdir.CONVERTED, {"source": source.name})


def to_torch_file(source: pathlib.Path, which: str, target: pathlib.Path) -> None:
    """Best or last weights of a run -> PyTorch file, whole or not at all."""
    if target.exists() or not target.parent.is_dir():
        raise UsageError(f"{target} exists already, or its folder does not; name a new file")
    _, variables = read_variables(source, which)
    torch, state = _torch(), to_torch(variables["params"])
    with atomic.replacing(target) as temporary:
        torch.save({name: torch.tensor(value) for name, value in state.items()}, temporary)


def read_params(path: pathlib.Path) -> Any:
    """PyTorch file -> our parameters, see `from_torch`; nothing in the file is run."""
    torch = _torch()
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        state = {str(name): _array(str(name), value) for name, value in tensors.items()}
    except Exception as error:  # PyTorch raises many kinds for a file that is none of its own
        reason = str(error).strip().splitlines()[:1]
        raise UsageError(
            f"{path} holds no PyTorch state dict ({', '.join([type(error).__name__, *reason])}); "
            "save model.state_dict() with torch.save"
        ) from error
    try:
        return from_torch(state)
    except UsageError as error:
        raise UsageError(f"{path} holds {error}; name a state dict of the authors' code") from error


def _array(name: str, tensor: Any) -> np.ndarray:
    """One tensor in float32, unless it claims more numbers than the file holds of it."""
    if tensor.is_complex():
        raise ValueError(f"{printable(name)} holds complex numbers")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(
            f"{printable(name)} claims to be {list(tensor.shape)}, more than the file holds"
        )
    return tensor.detach().float().numpy()


def _torch() -> Any:
    try:
        import torch  # here, since nothing else needs it
    except ModuleNotFoundError as error:
        raise UsageError("PyTorch files need PyTorch: pip install torch") from error
    return torch


@ends_quietly()
def main() -> None:
    """Command line, see the top of the file."""
    parser = make_parser("multimix-convert", __doc__)
    parser.add_argument("source", type=pathlib.Path, help="PyTorch state dict, or folder of a run")
    parser.add_argument("target", type=pathlib.Path, help="new folder, or PyTorch file to write")
    parser.add_argument(
        "--last", action="store_true", help="the last weights of a run, not the best"
    )
    arguments = parser.parse_args()
    source, target = arguments.source, arguments.target
    if source.is_dir():
        with atomic.writing("target", target.parent):
            to_torch_file(source, Checkpoint.LAST if arguments.last else Checkpoint.BEST, target)
    else:
        with atomic.writing("target", target):
            to_checkpoint(source, target)
    print(f"{target} is written")


if __name__ == "__main__":
    main()
