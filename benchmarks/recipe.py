"""A training step of each method for own images, against what is told before a training.

    python -m benchmarks.recipe [--quick] [--sides 64 128 256] [--json docs/performance/recipe.json]

The step is that of configs/folder.py, on noise; `peer` is what `runs/costs.py` takes it to be, and
a thousand steps are 1,000 times `ours`. Peak memory is of the process, from one case to the next.
"""

import functools
import statistics
from typing import Any

import jax
import numpy as np

from benchmarks import measure
from benchmarks.measure import Row
from configs import folder
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Stream, Task
from multimix_jax.runs import costs
from multimix_jax.runs.programs import Programs
from multimix_jax.runs.spec import RunSpec
from multimix_jax.training import machine

METHODS = ("unet_augmented", "consistency_classes", "consistency", "multimix")
row = functools.partial(Row, "recipe")


def random_batch(programs: Programs, batch_size: int, class_multiple: int) -> dict[Stream, Any]:
    """What a step takes, of noise."""
    rng = np.random.default_rng(0)
    batch = {}
    for stream in programs.objective.streams:
        count = batch_size * (class_multiple if stream.task == Task.CLS else 1)
        shape = (count, programs.size, programs.size, 1)
        batch[stream] = {"image": rng.integers(0, 256, shape).astype(np.uint8)}
        if stream == Stream.SEG_LABELED:
            batch[stream]["mask"] = rng.integers(0, 2, shape).astype(np.uint8)
        if stream.task == Task.CLS:
            batch[stream]["label"] = rng.integers(0, 2, count).astype(np.int32)
    return batch


def compare(method: str, side: int, rounds: int) -> list[Row]:
    """A step's time against what is told, and the peak of the memory."""
    c = folder.get_config(f"images=-,masks=-,labels=-,method={method},size={side}")
    spec = RunSpec.of_config(c.to_dict())
    groups = spec.training, spec.prediction, LabelSpec(("well", "ill"))
    programs = Programs(spec.objective, side, *groups)
    batch = random_batch(programs, spec.training.batch_size, spec.data.class_multiple)
    _, told = costs.step_on_cpu(programs, batch)
    sharded = programs.sharded_step
    states, on_device = [sharded.put_state(programs.initial_state(0))], sharded.put_batch(batch)

    def step() -> None:
        state, metrics = sharded.step(states.pop(), on_device)
        states.append(state)
        jax.block_until_ready((state, metrics))

    (seconds,) = measure.in_turn([step], rounds=rounds)
    own = statistics.median(seconds)
    case = f"{method}, side {side}"
    return [
        row(f"{case}: step", own, told, "s", own / told, "of what is told"),
        row(f"{case}: peak memory so far", measure.peak_memory() / 2**20, None, "MiB"),
    ]


def main() -> None:
    parser = measure.parser(__doc__, sides=(64, 128, 256))
    args = parser.parse_args()
    machine.set_xla_flags()
    sides, rounds = (args.sides[:1], 3) if args.quick else (args.sides, args.rounds)
    rows = [line for side in sides for method in METHODS for line in compare(method, side, rounds)]
    measure.report(rows, args.json)


if __name__ == "__main__":
    main()
