"""What a training asks of the machine, in time and memory, known before it begins."""

import os
import resource
import time
from typing import Any

import jax
import jax.numpy as jnp

from multimix_jax.errors import UsageError
from multimix_jax.keys import ExampleKeys
from multimix_jax.runs.programs import Programs
from multimix_jax.training import machine
from multimix_jax.training.parallel import AXIS

PyTree = Any
TOLD_FROM = 100  # steps; fewer are over before it is told
_OVER_KEPT = 1.15  # all that a step takes, to what it keeps to go back: 1.11 to 1.14 measured
# What a step on CPU reaches of the rate of a matrix product, by XLA's count of its arithmetic: .36,
# .41 and .40 at sides of 64, 128 and 256 pixels (docs/performance/train_step*.json).
_SHARE_OF_RATE = 0.39
_PROGRAM = 330 * 2**20  # bytes of a compiled step, at any side (docs/lab/performance.md)


def check_memory(programs: Programs, batch: PyTree) -> None:
    """Raises UsageError where a step on `batch`, of patches, is too large for a device.

    What is kept on the way forwards, to go back, is most of what a step takes; it is counted
    without computing anything.
    """
    devices = jax.local_device_count()
    needed = _OVER_KEPT * _kept_bytes(programs, batch, devices)
    limit = machine.memory_bytes() // (devices if jax.default_backend() == "cpu" else 1)
    if needed > limit:
        *patch, _ = programs.network.input_shape(programs.size)
        share = (limit / needed) ** (1 / len(patch))
        fits = [max(int(side * share) // 16, 1) * 16 for side in patch]
        sides, smaller = ("x".join(map(str, x)) for x in (patch, fits))
        raise UsageError(
            f"patches of {sides} take about {needed / 2**30:.0f} GiB a step, but there are "
            f"{limit / 2**30:.0f} GiB; {smaller} would fit: set config.objective.patch and "
            "config.window.patch, or a smaller config.batch_size or config.model.filters"
        )


def forecast(programs: Programs, batch: PyTree, steps: int) -> str:
    """A line: about how long so many steps on batches of this shape take here, and how much memory.

    On CPU the time is the arithmetic of a step, counted by XLA and not run, over a share of the
    rate at which this machine multiplies matrices at this moment; validation and evaluation are not
    in it. On other devices no share is known, so that only the memory is told.
    """
    devices, parts = jax.local_device_count(), programs.step_spec.accumulate
    flops = parts * devices * _flops(programs, batch, parts * devices)
    kept = _OVER_KEPT * _kept_bytes(programs, batch, parts * devices)
    weights = jax.eval_shape(lambda: programs.initial_state(0))
    state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(weights))
    limit = machine.memory_bytes() / 2**30
    if jax.default_backend() != "cpu":
        return (
            f"{steps:,} steps: about {(kept + 2 * state) / 2**30:.1f} of {limit:.0f} GiB a device; "
            "the time is known after the first of them"
        )
    seconds = steps * flops / (_SHARE_OF_RATE * _matrix_rate())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    needed = (peak + _PROGRAM + devices * (kept + 2 * state)) / 2**30
    remedy = "" if needed <= limit else ": set a smaller config.size, or a larger config.accumulate"
    return (
        f"{steps:,} steps take about {_duration(seconds)} on these {_cores()} cores "
        f"({flops / 1e9:,.0f} GFLOP each, by the rate measured just now) and {needed:.1f} of "
        f"{limit:.0f} GiB of memory{remedy}"
    )


def _gradient(programs: Programs, batch: PyTree, parts: int) -> tuple[Any, PyTree, PyTree]:
    """What gives loss and gradients of one of so many parts of a batch; shapes of its arguments."""
    part = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((1, len(x) // parts, *x.shape[1:]), x.dtype), batch
    )
    state = jax.eval_shape(lambda: programs.initial_state(0))

    def loss(params: PyTree, state: PyTree, batch: PyTree) -> jax.Array:
        return programs.objective(params, state, batch, ExampleKeys(jax.random.key(0)))[0]

    return loss, state, part


def _kept_bytes(programs: Programs, batch: PyTree, parts: int) -> float:
    loss, state, part = _gradient(programs, batch, parts)
    residuals = lambda state, batch: jax.vjp(lambda p: loss(p, state, batch), state.params)[1]
    shapes = jax.eval_shape(jax.vmap(residuals, in_axes=(None, 0), axis_name=AXIS), state, part)
    return float(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes)))


def _flops(programs: Programs, batch: PyTree, parts: int) -> float:
    """Of a part of a batch, by XLA's analysis of the program as it is before it is compiled."""
    loss, state, part = _gradient(programs, batch, parts)
    gradient = lambda state, batch: jax.value_and_grad(loss)(state.params, state, batch)
    mapped = jax.vmap(gradient, in_axes=(None, 0), axis_name=AXIS)
    costs = jax.jit(mapped).lower(state, part).cost_analysis() or {}
    return float(costs.get("flops", 0.0))


def _matrix_rate(side: int = 1024, rounds: int = 5) -> float:
    """FLOP/s of a square matrix product, the best of a few."""
    product, matrix = jax.jit(lambda a: a @ a), jnp.ones((side, side), jnp.float32)
    product(matrix).block_until_ready()
    best = float("inf")
    for _ in range(rounds):
        begun = time.perf_counter()
        product(matrix).block_until_ready()
        best = min(best, time.perf_counter() - begun)
    return 2 * side**3 / best


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _duration(seconds: float) -> str:
    """'3 minutes', '1 h 20 min'."""
    minutes = max(round(seconds / 60), 1)
    if minutes < 100:
        return f"{minutes} minute{'s' * (minutes > 1)}"
    return f"{minutes // 60} h {minutes % 60} min"
