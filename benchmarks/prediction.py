"""What is lost when a part of a trained network's prediction is left out.

    python -m benchmarks.prediction RUN ... [--data_dir DIR] [--json FILE]

Each RUN, a folder of launch.py with a network of one or both tasks, predicts its test sets with its
weights best on validation: as its config has it, without the mirror image, with every part of a
mask kept, with the weights as trained where it has their moving average, and, where it has a
bridge, with a saliency of zeros.
"""

import dataclasses
import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from multimix_jax.inference.trained_model import read_model

import launch
from benchmarks import measure
from benchmarks.measure import Row
from multimix_jax.errors import UsageError
from multimix_jax.evaluation import evaluate
from multimix_jax.models import MultiMix
from multimix_jax.names import Checkpoint
from multimix_jax.objectives.joint import JointObjective
from multimix_jax.runs import workdir
from multimix_jax.training import machine
from multimix_jax.training.checkpoint import read_variables

BATCH = 32
METRICS = ("dice", "accuracy", "auroc")


class Blind(MultiMix):
    """The network, with nothing seen on the bridge."""

    def saliency(self, images: jax.Array) -> jax.Array:
        return jnp.zeros((*images.shape[:-1], 1), images.dtype)


def ways(objective: JointObjective, components: int) -> dict[str, tuple[JointObjective, int]]:
    """How to predict, and how many parts of a mask to keep, by name; the config's own first."""
    found = {"as configured": (objective, components)}
    if objective.mirror:
        found["no mirror image"] = dataclasses.replace(objective, mirror=False), components
    if components and objective.model.use_decoder:
        found["all parts of a mask"] = objective, 0
    if objective.model.use_bridge:
        names = [field.name for field in dataclasses.fields(MultiMix) if field.init]
        held = {name: getattr(objective.model, name) for name in names}
        blind = Blind(**{**held, "parent": None})
        found["saliency of zeros"] = dataclasses.replace(objective, model=blind), components
    return found


def measured(path: pathlib.Path, data_dir: str | None) -> list[Row]:
    """A row for each way, test set and metric of a run, against the configured way."""
    model = read_model(path, Checkpoint.BEST)
    objective: Any = model.objective
    held = json.loads((path / workdir.CONFIG).read_text(encoding="utf-8"))
    if not isinstance(objective, JointObjective):
        raise UsageError(f"{path} is of method={held['method']}, which has none of these parts")
    added = {name: value for name, value in workdir.ADDED.items() if "." not in name}
    c = ConfigDict(added | held)
    if data_dir is not None:
        c.data_dir = data_dir
    run = launch.make_run(c, path)
    cases = [(way, *how, model.variables) for way, how in ways(objective, model.components).items()]
    if held["ema_decay"]:
        _, trained = read_variables(path, Checkpoint.BEST, average=False)
        cases.append(("no moving average", objective, model.components, trained))
    rows, first = [], {}
    for way, method, components, variables in cases:
        predict = jax.jit(method.predict)
        for eval_set in run.tests:
            found = evaluate.predict_set(
                predict, variables, eval_set, batch_size=BATCH, components=components
            )
            summary, _ = evaluate.measure(found, class_names=run.class_names, intervals=False)
            for metric in METRICS:
                if metric in summary:
                    value = float(summary[metric]["mean"])
                    peer = first.setdefault((eval_set.name, metric), value)
                    case = f"{path.name}, {eval_set.name} {metric}, {way}"
                    rows.append(
                        Row("prediction", case, value, peer, "of 1", value - peer, "difference")
                    )
    return rows


def main() -> None:
    parser = measure.parser(__doc__, sides=())
    parser.add_argument("runs", type=pathlib.Path, nargs="+", metavar="RUN")
    parser.add_argument("--data_dir", default=None, help="that of the run by default")
    args = parser.parse_args()
    machine.set_xla_flags()
    runs = args.runs[: 1 if args.quick else None]
    try:
        rows = [row for path in runs for row in measured(path, args.data_dir)]
    except UsageError as error:
        sys.exit(f"error: {error}")
    measure.report(rows, args.json)


if __name__ == "__main__":
    main()
