"""Training steps of several seeds at once, in one vmapped program, against one after the other.

    python -m benchmarks.seeds [--quick] [--sides 32 64] [--seeds 3] [--json FILE]

The published network and loss, Adam, batches of 10 images per stream that lie on the device.
"""

import functools
import itertools
import statistics

import jax
import numpy as np

from benchmarks import measure, scaling
from benchmarks.measure import Row
from multimix_jax.state import TrainState
from multimix_jax.training import machine, parallel
from multimix_jax.training.step import make_train_step

row = functools.partial(Row, "seeds")


def compare(side: int, seeds: int, parts: int, rounds: int) -> Row:
    """Time of a step of every seed, with the batch in so many parts."""
    scaling.log(f"compiling the step at side {side} in {parts} parts, for one and {seeds} seeds")
    objective, optimizer = scaling.objective(), scaling.adam()
    step = make_train_step(objective, optimizer, accumulate=parts)
    variables, batch = scaling.random_variables(objective), scaling.random_batch(side, 10)

    def first_states() -> list[TrainState]:
        return [TrainState.create(variables, optimizer, seed=seed) for seed in range(seeds)]

    stack = lambda *leaves: np.stack(leaves)
    # A seed has labels of its own, and so a batch.
    batches = jax.device_put(jax.tree.map(stack, *[batch] * seeds))
    alone = scaling.Step(jax.jit(step), first_states()[0], jax.device_put(batch))
    together = scaling.Step(jax.jit(jax.vmap(step)), jax.tree.map(stack, *first_states()), batches)

    def in_turn() -> None:
        for _ in range(seeds):
            alone()

    one, many = measure.in_turn([in_turn, together], rounds=rounds, warmup=1)
    return row(
        f"side {side}, {parts} parts: {seeds} seeds at once, against one after the other",
        statistics.median(many),
        statistics.median(one),
        "s",
        measure.median_ratio(one, many),
    )


def main() -> None:
    parser = measure.parser(__doc__, sides=(32, 64, 128))
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    args = parser.parse_args()
    machine.set_xla_flags()
    machine.keep_compiled()
    sides, rounds = (args.sides[:1], 3) if args.quick else (args.sides, args.rounds)
    rows = []
    for side, whole in itertools.product(sides, (True, False)):
        parts = 1 if whole else parallel.micro_batches_for_caches(10, side, 1)
        if whole or parts > 1:
            rows.append(compare(side, args.seeds, parts, rounds))
    measure.report(rows, args.json)


if __name__ == "__main__":
    main()
