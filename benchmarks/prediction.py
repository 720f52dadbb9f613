"""What is lost when a part of a trained network's prediction is left out.

    python -m benchmarks.prediction RUN ... [--quick] [--data_dir DIR] [--json FILE]

Each RUN, a folder of launch.py with a network of one or both tasks, predicts its test sets with its
weights best on validation: as its config has it, without flips, with all connected components of a
mask, with the weights as trained where it has their moving average, and, where it has a bridge,
with a saliency of zeros. --quick takes the first run and its first test set.
"""

import dataclasses
import functools
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

import launch
from benchmarks import measure
from benchmarks.measure import Row
from multimix_jax.errors import UsageError
from multimix_jax.evaluation import evaluate
from multimix_jax.inference.predictor import Member, Predictor
from multimix_jax.inference.sets import predict_set
from multimix_jax.names import Checkpoint, Head
from multimix_jax.objectives.joint import JointNetwork
from multimix_jax.runs import workdir
from multimix_jax.runs.trained_model import TrainedModel, read_model
from multimix_jax.training import machine
from multimix_jax.training.checkpoint import read_variables

METRICS = ("dice", "accuracy", "auroc")

row = functools.partial(Row, "prediction")


class ZeroSaliency(JointNetwork):
    """The network with zeros on the bridge."""

    def predict(self, *args: Any, **kwargs: Any) -> dict[Head, jax.Array]:
        with nn.intercept_methods(_without_saliency):
            return super().predict(*args, **kwargs)


def _without_saliency(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """What `nn.intercept_methods` calls in place of every method of a module."""
    if context.method_name == "saliency":
        return jnp.zeros_like(args[0][..., :1])
    return method(*args, **kwargs)


def predictors(model: TrainedModel) -> dict[str, Predictor]:
    """By what is left out; the first is the run's own."""
    network, prediction = model.network, model.spec.prediction
    if not isinstance(network, JointNetwork):
        raise UsageError(f"a run of method={model.spec.objective.method} has none of these parts")
    labels = model.labels
    other = lambda **fields: Member(
        network, dataclasses.replace(prediction, **fields), labels=labels
    )
    made = {"as configured": Predictor([other()])}
    if prediction.flips:
        made["no flips"] = Predictor([other(flips=False)])
    if prediction.keep_largest and network.model.use_decoder:
        made["all components of a mask"] = Predictor([other(keep_largest=0)])
    if network.model.use_bridge:
        zeros = ZeroSaliency(network.model, network.multi_label)
        made["saliency of zeros"] = Predictor([Member(zeros, prediction, labels=labels)])
    return made


def compare(path: pathlib.Path, data_dir: str | None, quick: bool) -> list[Row]:
    """A row for each test set, predictor and metric of a run, against the run's own predictor."""
    model = read_model(path, Checkpoint.BEST)
    config = workdir.read_config(path)
    if data_dir is not None:
        config["data_dir"] = data_dir
    own, *others = predictors(model).items()
    cases = [(*case, model.variables) for case in (own, *others)]
    if model.spec.training.step.ema_decay:
        _, trained = read_variables(path, Checkpoint.BEST, average=False)
        cases.append(("no moving average", own[1], trained))
    tests = launch.open_data(config, model.spec, ()).tests[: 1 if quick else None]
    rows = []
    for eval_set in tests:
        peers: dict[str, float] = {}  # of the first case
        for name, predictor, variables in cases:
            predictions = predict_set(
                predictor, [variables], eval_set, batch_size=model.spec.prediction.eval_batch_size
            )
            summary, _ = evaluate.measure(
                predictions, class_names=model.labels.class_names, intervals=False
            )
            for metric in METRICS:
                if metric not in summary:
                    continue
                value = float(summary[metric]["mean"])
                peer = peers.setdefault(metric, value)
                case = f"{path.name}, {eval_set.name} {metric}, {name}"
                rows.append(row(case, value, peer, "of 1", value - peer, "difference"))
    return rows


def main() -> None:
    parser = measure.parser(__doc__, sides=())
    parser.add_argument("runs", type=pathlib.Path, nargs="+", metavar="RUN")
    parser.add_argument("--data_dir", default=None, help="that of the run by default")
    args = parser.parse_args()
    machine.set_xla_flags()
    runs = args.runs[: 1 if args.quick else None]
    try:
        rows = [entry for path in runs for entry in compare(path, args.data_dir, args.quick)]
    except UsageError as error:
        sys.exit(f"error: {error}")
    measure.report(rows, args.json)


if __name__ == "__main__":
    main()
