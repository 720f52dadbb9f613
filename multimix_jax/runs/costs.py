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
_COMPILED = 0.8 * 2**30  # bytes of compiled programs, at any side, and to compile them; measured


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
    kept = _OVER_KEPT * _kept_bytes(programs, batch, parts * devices)
    weights = jax.eval_shape(lambda: programs.initial_state(0))
    state = _bytes(weights)
    kept += _predicted_bytes(programs, weights.eval_variables)
    limit = machine.memory_bytes() / 2**30
    if jax.default_backend() != "cpu":
        return (
            f"{steps:,} steps: about {(kept + 2 * state) / 2**30:.1f} of {limit:.0f} GiB a device; "
            "the time is known after the first of them"
        )
    flops, seconds = step_on_cpu(programs, batch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    needed = (peak + _COMPILED + devices * (kept + 2 * state)) / 2**30
    remedy = "" if needed <= limit else ": set a smaller config.size, or a larger config.accumulate"
    return (
        f"{steps:,} steps take about {_duration(steps * seconds)} on these {_cores()} cores "
        f"({flops / 1e9:,.0f} GFLOP each, by the rate measured just now) and about {needed:.1f} of "
        f"{limit:.0f} GiB of memory{remedy}"
    )


def step_on_cpu(programs: Programs, batch: PyTree) -> tuple[float, float]:
    """FLOPs and seconds of a step on batches of this shape, as `forecast` takes them to be."""
    parts = jax.local_device_count() * programs.step_spec.accumulate
    flops = parts * _flops(programs, batch, parts)
    return flops, flops / (_SHARE_OF_RATE * _matrix_rate())


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
    return _bytes(shapes)


def _predicted_bytes(programs: Programs, variables: PyTree) -> float:
    """What a batch of predictions takes: measured, about as much as a gradient would keep of it."""
    network, spec = programs.network, programs.predictor.spec
    shape = network.input_shape(programs.size)
    count = spec.eval_batch_size if spec.windows is None else spec.window.batch_size
    image = jax.ShapeDtypeStruct((1, *shape), jnp.uint8 if len(shape) == 3 else jnp.float32)
    residuals = lambda v, images: jax.vjp(lambda v: network.predict(v, images), v)[1]
    return count * _bytes(jax.eval_shape(residuals, variables, image))


def _bytes(tree: PyTree) -> float:
    return float(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)))


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
