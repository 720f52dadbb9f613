"""A trained network, from the folder of its run."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from multimix_jax.errors import UsageError
from multimix_jax.evaluation.calibration import Calibration
from multimix_jax.inference.appearance import Appearance
from multimix_jax.inference.predictor import Member
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Checkpoint, Head
from multimix_jax.objectives import Network, make_objective
from multimix_jax.runs import workdir
from multimix_jax.runs.record import read_appearance, read_labels, read_run
from multimix_jax.runs.spec import RunSpec
from multimix_jax.training.checkpoint import read_variables

PyTree = Any


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A network for whole images, its weights, and where it comes from."""

    network: Network
    variables: PyTree  # the moving average of the weights, where one was kept
    spec: RunSpec
    labels: LabelSpec
    calibration: Calibration  # one that changes nothing where none was chosen
    appearance: Appearance | None  # of the images trained on; None where nobody trained here
    source: dict[str, Any]  # JSON values that say which run and checkpoint it is

    @property
    def size(self) -> int:
        """Side of the images that it was trained on, in pixels."""
        return self.spec.data.size

    @property
    def channels(self) -> int:
        return self.network.input_shape(self.size)[-1]

    @property
    def member(self) -> Member:
        """For a `Predictor`."""
        return Member(self.network, self.spec.prediction, self.calibration, self.labels)

    @property
    def outputs(self) -> dict[Head, tuple[int, ...]]:
        """Shapes of the answer to one image."""
        image = jax.ShapeDtypeStruct((1, self.size, self.size, self.channels), np.uint8)
        shapes = jax.eval_shape(self.network.predict, self.variables, image)
        return {head: shapes[head].shape[1:] for head in Head if head in shapes}


def read_model(
    source: str | os.PathLike[str], which: Checkpoint = Checkpoint.BEST, dtype: str | None = None
) -> TrainedModel:
    """The network of the run in a folder, with its best or last weights.

    It computes in `dtype`, 'float32' or 'bfloat16'; None is that of the training. UsageError where
    there is no such checkpoint, or it is of a network for volumes or windows.
    """
    source = pathlib.Path(source)
    spec = workdir.read_spec(source)
    objective = dataclasses.replace(spec.objective, dtype=dtype or spec.objective.dtype)
    labels = read_labels(source)
    network = make_objective(objective, labels).network
    if spec.prediction.windows or len(network.input_shape(spec.data.size)) != 3:
        raise UsageError(
            f"{source} predicts volumes, or window by window (config.window), which this command "
            "cannot; launch.py --mode=eval writes predictions of volumes, and networks for whole "
            "images can be used here"
        )
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), spec.data.size))
    # By NumPy, since jnp.zeros is compiled for each shape; of JAX, so that orbax compares shapes.
    zeros = lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype))
    like = jax.tree.map(zeros, shapes)
    step, variables = read_variables(source, which, {"batch_stats": {}, **like})
    calibration = _calibration(source, which, step) or Calibration(multi_label=labels.multi_label)
    described = {"run": source.resolve().name, "checkpoint": which, "step": step}
    described |= {"system": spec.system, "method": spec.objective.method}
    appearance = read_appearance(source)
    return TrainedModel(network, variables, spec, labels, calibration, appearance, described)


def read_models(paths: Sequence[pathlib.Path], which: Checkpoint) -> list[TrainedModel]:
    """The networks of an ensemble; UsageError where they cannot answer together."""
    models = [read_model(path, which) for path in paths]
    kinds = [
        (model.size, model.spec.data.fit, model.channels, labels, model.outputs)
        for model in models
        for labels in [dataclasses.replace(model.labels, components=())]  # the first one's are kept
    ]
    for path, kind in zip(paths[1:], kinds[1:]):
        if kind != kinds[0]:
            raise UsageError(
                f"{path} cannot answer together with {paths[0]}: side, fit, channels, labels and "
                f"outputs are {kind} and {kinds[0]}; take runs that agree in these"
            )
    return models


def _calibration(source: pathlib.Path, which: Checkpoint, step: int) -> Calibration | None:
    """What was chosen on validation for these very weights, if they were evaluated."""
    try:
        run = read_run(source)
    except UsageError:
        return None
    evaluated = run.results["run"].get(which, {}).get("step")
    return run.calibration(which) if evaluated == step else None
