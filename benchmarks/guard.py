"""Time of a training step with its guard, which skips what is not finite, against without it.

    python -m benchmarks.guard [--quick] [--sides 64 128] [--json FILE]

The published network in float32, Adam, and a batch of the published size that lies on the device.
Without the guard, the step takes every loss and gradient for finite, and XLA leaves out the choice
between the old and the new state. The quartiles are those of the rounds' ratios.

The whole step hides so small a difference in noise; but all of it is in the update, which is also
timed alone, after a loss of almost no work. There the fastest of many rounds count.
"""

import functools
import statistics
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import optax

from benchmarks import measure, scaling
from benchmarks.measure import Row
from benchmarks.train_step import Case, OurStep
from multimix_jax.state import TrainState
from multimix_jax.training import machine
from multimix_jax.training.step import make_train_step

UPDATES = 50  # for each round of the step

row = functools.partial(Row, "guard")


def whole_step(case: Case) -> OurStep:
    step = OurStep(case)
    step.compile()
    return step


def update() -> scaling.Step:
    """The step of a loss that looks at the weights alone."""

    def loss(params: Any, state: TrainState, batch: Any, keys: Any) -> Any:
        return optax.tree.norm(params), ({}, state.batch_stats)

    step = jax.jit(make_train_step(loss, scaling.adam()), donate_argnums=0)
    state = scaling.first_state()
    return scaling.Step(step.lower(state, ()).compile(), state, ())


def with_and_without(
    make: Callable[[], Callable[[], None]], rounds: int
) -> tuple[list[float], list[float]]:
    """Seconds of each round of a program with the guard, and without."""
    guarded = make()
    with mock.patch.object(jnp, "isfinite", lambda x: True):
        unguarded = make()
    ours, peer = measure.in_turn([guarded, unguarded], rounds=rounds)
    return ours, peer


def compare(side: int, rounds: int) -> list[Row]:
    case = Case(side, "float32", scaling.BATCH_SIZE)
    scaling.log(f"{case}: compiling and timing")
    ours, peer = with_and_without(functools.partial(whole_step, case), rounds)
    with_it, without = (min(seconds) for seconds in with_and_without(update, UPDATES * rounds))

    low, middle, high = statistics.quantiles([a / b for a, b in zip(ours, peer)], n=4)
    medians, unit = (statistics.median(ours), statistics.median(peer)), "of the step without"
    more = (with_it - without) / min(peer)
    return [
        row(f"{case}: step with the guard", *medians, "s", middle, unit),
        row(f"{case}: lower quartile of the rounds", None, None, "s", low, unit),
        row(f"{case}: upper quartile of the rounds", None, None, "s", high, unit),
        row(f"{case}: fastest step", min(ours), min(peer), "s", min(ours) / min(peer), unit),
        row(f"{case}: fastest update", with_it, without, "s", more, f"{unit}, more"),
    ]


def main() -> None:
    args = measure.parser(__doc__, sides=(64,)).parse_args()
    machine.set_xla_flags()
    machine.keep_compiled()
    rows = []
    for side in args.sides[:1] if args.quick else args.sides:
        rows += compare(side, 3 if args.quick else args.rounds)
    measure.report(rows, args.json)


if __name__ == "__main__":
    main()
