"""A trained network, from the folder of its run."""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from multimix_jax.errors import UsageError
from multimix_jax.evaluation.calibration import Calibration
from multimix_jax.names import Checkpoint
from multimix_jax.objectives import Objective, make_objective
from multimix_jax.runs import workdir
from multimix_jax.runs.record import FinishedRun, read_run
from multimix_jax.training.checkpoint import read_variables

PyTree = Any


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A network for whole images, its weights, and where it comes from.

    Attributes:
      objective: the method, with the network.
      variables: of the network: the moving average of the weights, where one was kept.
      size: side of the images that it was trained on, in pixels.
      fit: how these were fitted to it, 'squash' or 'pad'.
      channels: of the images.
      class_names: in the order of the probabilities; [] where the run has not been evaluated.
      exclusive: whether an image has one of them; else any, each by itself.
      mask_names: of the masks' channels, where there are several and the run has been evaluated.
      components: how many parts of each mask are to be kept, the largest; 0 for all.
      dropout_rate: that it was trained with.
      calibration: of the class probabilities; one that changes nothing where there is none.
      source: JSON values that say which run and checkpoint it is.
    """

    objective: Objective
    variables: PyTree
    size: int
    fit: str
    channels: int
    class_names: Sequence[str]
    exclusive: bool
    mask_names: Sequence[str]
    components: int
    dropout_rate: float
    calibration: Calibration
    source: dict[str, Any]


def read_model(source: pathlib.Path, which: str, dtype: str | None = None) -> TrainedModel:
    """The network of a run, with its best or last weights.

    Args:
      source: folder of the run.
      which: Checkpoint.BEST or Checkpoint.LAST.
      dtype: of the computation, 'float32' or 'bfloat16'; None is that of the training.

    Raises:
      UsageError: the folder holds no such checkpoint, or it is of a network for volumes or windows.
    """
    c = _config(source)
    try:
        objective = make_objective(
            c["method"], model=c["model"], dtype=dtype or c["dtype"], terms=c["objective"]
        )
        size, windows = int(c["size"]), c["window"]["patch"]
        described = {"system": str(c["system"]), "method": c["method"]}
        exclusive = bool(c["objective"].get("exclusive", True))
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"{source / workdir.CONFIG} lacks or misspells a field ({error}); restore it, or use "
            "the release of multimix_jax that wrote it"
        ) from error
    *sides, channels = objective.input_shape(size)
    if windows or len(sides) != 2:
        raise UsageError(
            f"{source} predicts volumes, or window by window (config.window), which this command "
            "cannot; launch.py --mode=eval writes predictions of volumes, and networks for whole "
            "images can be used here"
        )
    shapes = jax.eval_shape(lambda: objective.init(jax.random.key(0), size))
    # By NumPy, since jnp.zeros is compiled for each shape; of JAX, so that orbax compares shapes.
    zeros = lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype))
    like = jax.tree.map(zeros, shapes)
    step, variables = read_variables(source, which, {"batch_stats": {}, **like})
    run = _evaluated(source)
    return TrainedModel(
        objective=objective,
        variables=variables,
        size=size,
        fit=str(c.get("fit", "squash")),
        channels=channels,
        class_names=[] if run is None else list(run.labels.class_names),
        exclusive=exclusive,
        mask_names=[] if run is None else list(run.labels.mask_names),
        components=int(c.get("components", c.get("largest_component", 0))),
        dropout_rate=float(c["model"].get("dropout_rate", 0.0)),
        calibration=_calibration(run, which, step) or Calibration(exclusive=exclusive),
        source={"run": source.resolve().name, "checkpoint": which, "step": step, **described},
    )


def add_which(parser: argparse.ArgumentParser) -> None:
    """The flag of commands that says which weights to read."""
    parser.add_argument(
        "--which",
        choices=(Checkpoint.BEST, Checkpoint.LAST),
        default=Checkpoint.BEST,
        help="the weights that were best on validation, or the last (default: %(default)s)",
    )


def _config(source: pathlib.Path) -> dict[str, Any]:
    file = source / workdir.CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{source} holds no run ({workdir.CONFIG} cannot be read: {error.strerror}); name the "
            "folder that launch.py trained in"
        ) from error
    except (RecursionError, ValueError) as error:
        raise UsageError(f"{file} is damaged ({error}); restore it") from error
    return config


def _evaluated(source: pathlib.Path) -> FinishedRun | None:
    try:
        return read_run(source)
    except UsageError:  # not evaluated yet
        return None


def _calibration(run: FinishedRun | None, which: str, step: int) -> Calibration | None:
    """What was chosen on validation for these very weights."""
    if run is None or run.results["run"].get(which, {}).get("step") != step:
        return None
    return run.calibration(which)
