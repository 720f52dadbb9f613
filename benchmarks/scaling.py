"""Time and memory of a training step against the side of the images, the batch and the devices.

    python -m benchmarks.scaling [--quick] [--sides 64 128] [--json FILE]

Powers are fitted to both. Memory is what XLA plans for: the step's arguments, results and
temporaries. What the machine cannot hold, or what would take a minute a step, is compiled but not
run.

Weak scaling keeps the images per device. It runs over fake CPU devices, which share the cores, so n
of them should take n times as long as one. What they exchange is read off the program.
"""

import concurrent.futures
import functools
import itertools
import multiprocessing
import os
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import optax

from benchmarks import measure
from benchmarks.measure import Row
from configs import common
from multimix_jax import objectives
from multimix_jax.objectives import Objective, ObjectiveSpec
from multimix_jax.state import TrainState
from multimix_jax.training import machine, optimizer, parallel
from multimix_jax.training.step import make_train_step

PyTree = Any
Result = TypeVar("Result")
BATCH_SIZE = 10  # images per stream, as published
BATCH_SIZES: Sequence[int] = (2, 4, 8, 16)
DEVICES: Sequence[int] = (1, 2, 4)
PER_DEVICE = 2  # images per stream
LONGEST = 60.0  # seconds a step that is run may take
FULLEST = 0.75  # of the machine's memory that a step that is run may take

row = functools.partial(Row, "scaling")

_COLLECTIVE = re.compile(
    r" = (\S.*?) ((?:ragged-)?all-to-all|all-gather|all-reduce|reduce-scatter|"
    r"collective-permute|collective-broadcast)(?:-start)?\("
)
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One exchange between devices: what kind, and the bytes of its result on each device."""

    operation: str
    size: int


def collectives(program: str) -> list[Collective]:
    """All exchanges between devices in a compiled program's text (HLO), in its order.

    An all-reduce takes in as many bytes as it gives out.
    """
    return [
        Collective(operation, sum(map(_array_bytes, _ARRAY.findall(shapes))))
        for shapes, operation in _COLLECTIVE.findall(program)
    ]


def _array_bytes(array: tuple[str, str, str]) -> int:
    _, bits, sides = array
    count = int(np.prod([int(side) for side in sides.split(",") if side], dtype=np.int64))
    return -(-count * int(bits or 8) // 8)  # a pred takes a byte


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The p of values ~ sizes^p, by least squares in the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


class Step:
    """A compiled training step, and a state and a batch to run it on."""

    def __init__(self, compiled: Any, state: TrainState, batch: PyTree):
        self.compiled, self.state, self.batch = compiled, state, batch

    def __call__(self) -> None:
        self.state, metrics = self.compiled(self.state, self.batch)
        jax.block_until_ready((self.state, metrics))

    @property
    def memory(self) -> int:
        """Bytes on each device."""
        plan = self.compiled.memory_analysis()
        new = plan.output_size_in_bytes - plan.alias_size_in_bytes  # the state takes its old place
        return plan.argument_size_in_bytes + new + plan.temp_size_in_bytes


@functools.cache
def on_one_device(side: int, batch_size: int) -> Step:
    """The published step at this side, with this many images per stream."""
    log(f"compiling the step at side {side}, batch {batch_size}")
    accumulate = parallel.micro_batches_for_caches(batch_size, side, 1)
    step = make_train_step(objective(), adam(), accumulate=accumulate)
    state, batch = first_state(), random_batch(side, batch_size)
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    return Step(compiled, state, jax.device_put(batch))


def on_devices(count: int, side: int) -> Step:
    """The same over `count` devices, with PER_DEVICE images per stream on each."""
    log(f"compiling the step at side {side} for {count} devices")
    accumulate = parallel.micro_batches_for_caches(PER_DEVICE * count, side, count)
    step = make_train_step(objective(), adam(), accumulate=accumulate, axis_name=parallel.AXIS)
    sharded: Any = parallel.shard_step(step, devices=jax.devices()[:count])
    state = sharded.put_state(first_state())
    batch = sharded.put_batch(random_batch(side, PER_DEVICE * count))
    return Step(sharded.step.lower(state, batch).compile(), state, batch)


def growth(
    what: str,
    sizes: Sequence[int],
    make: Callable[[int], Step],
    *,
    fixed: str,
    order: int,
    rounds: int,
) -> list[Row]:
    """Time and memory of the steps of these sizes, ascending, and the powers that they follow.

    Args:
      what: grows, a word.
      sizes: its values.
      make: the step of a size.
      fixed: what does not grow.
      order: the power of the size by which the time is expected to grow.
      rounds: how often each step takes its turn.
    """
    steps = [make(size) for size in sizes]
    fitting = [step for step in steps if step.memory < FULLEST * machine_memory()]
    timed = fitting[:1]
    for step, before, size in zip(fitting[1:], sizes, sizes[1:]):
        (last,) = measure.in_turn(timed[-1:], rounds=1, warmup=1)
        if last[0] * (size / before) ** order > LONGEST:
            break
        timed.append(step)
    log(f"timing the step at {what} {', '.join(map(str, sizes[: len(timed)]))}")
    seconds = measure.in_turn(timed, rounds=rounds, warmup=1)

    rows = []
    for size, step, taken in itertools.zip_longest(sizes, steps, seconds):
        case = f"{fixed}, {what} {size}"
        if taken:
            rows.append(row(f"{case}: time", statistics.median(taken), None, "s"))
        rows.append(row(f"{case}: memory", step.memory / 2**20, None, "MiB"))
    if len(timed) > 1:
        powers = [exponent(sizes[: len(timed)], once) for once in zip(*seconds)]
        rows.append(row(f"{fixed}: time ~ {what}^p", statistics.median(powers), None, "p"))
    if len(steps) > 1:
        power = exponent(sizes, [step.memory for step in steps])
        rows.append(row(f"{fixed}: memory ~ {what}^p", power, None, "p"))
    return rows


def weak_scaling(counts: Sequence[int], side: int, rounds: int) -> list[Row]:
    """Time, memory and exchanges of the step over more and more devices; the first count is 1."""
    machine.set_xla_flags()
    machine.keep_compiled()
    steps = [on_devices(count, side) for count in counts]
    log(f"timing the step on {', '.join(map(str, counts))} devices")
    seconds = measure.in_turn(steps, rounds=rounds, warmup=1)
    # As many as parameters; those of biases that an instance norm takes out are zero, and not sent.
    gradients = sum(leaf.nbytes for leaf in jax.tree.leaves(steps[0].state.params))
    rows = []
    for count, step, taken in zip(counts, steps, seconds):
        case = f"side {side}, batch {PER_DEVICE} on each of {count} devices"
        time, alone = statistics.median(taken), statistics.median(seconds[0])
        share = count * measure.median_ratio(seconds[0], taken)
        unit = "of one device's images/s, on the same cores"
        rows.append(row(f"{case}: time, against one device", time, alone, "s", share, unit))
        rows.append(row(f"{case}: memory of each", step.memory / 2**20, None, "MiB"))
        exchanges = collectives(step.compiled.as_text())
        reduced = [exchange.size for exchange in exchanges if exchange.operation == "all-reduce"]
        others = len(exchanges) - len(reduced)
        rows.append(row(f"{case}: all-reduces", len(reduced), None, "per step"))
        rows.append(row(f"{case}: other exchanges", others, None, "per step"))
        total, unit = sum(reduced), "times the gradients' bytes"
        share = total / gradients
        rows.append(row(f"{case}: all-reduced", total, gradients, "bytes", share, unit))
    return rows


def in_fake_devices(function: Callable[..., Result], count: int, *arguments: Any) -> Result:
    """Calls `function` in a process of its own: JAX counts its devices once, when it begins."""
    flags = f"--xla_force_host_platform_device_count={count}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    os.environ["JAX_PLATFORMS"] = "cpu"
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as process:
        return process.submit(function, *arguments).result()


@functools.cache
def objective(dtype: str = "float32", **model: Any) -> Objective:
    """MultiMix as published, but for these fields of its model."""
    c = common.get_config()
    fields = {**c.model, **model}
    return objectives.make_objective(ObjectiveSpec(c.method, dtype, fields, c.objective))


def adam() -> optax.GradientTransformation:
    """The optimiser as published."""
    return optimizer.make_optimizer(optimizer.OptimizerSpec("adam"), optax.constant_schedule(1e-4))


def random_variables(of: Objective) -> PyTree:
    """Drawn by NumPy, since XLA takes long to compile its own draws."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: of.network.init(jax.random.key(0), 32))  # fit any side
    draw = lambda leaf: rng.uniform(-0.05, 0.05, leaf.shape).astype(leaf.dtype)
    return jax.tree.map(draw, shapes)


def first_state() -> TrainState:
    """Random weights of the published network, and Adam's state."""
    return TrainState.create(random_variables(objective()), adam())


def random_batch(side: int, batch_size: int, seed: int = 0) -> PyTree:
    """Noise in every stream, since time and memory do not depend on what the images show."""
    rng = np.random.default_rng(seed)
    draw = lambda stop: rng.integers(0, stop, (batch_size, side, side, 1), dtype=np.uint8)
    label = (np.arange(batch_size) % 2).astype(np.int32)
    return {
        "seg/labeled": {"image": draw(256), "mask": draw(2)},
        "seg/unlabeled": {"image": draw(256)},
        "cls/labeled": {"image": draw(256), "label": label},
        "cls/unlabeled": {"image": draw(256), "label": label},
    }


def machine_memory() -> int:
    """Bytes of the machine; of the accelerator, if there is one."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main() -> None:
    args = measure.parser(__doc__, sides=(64, 128, 256, 512)).parse_args()
    machine.set_xla_flags()
    machine.keep_compiled()
    sides, rounds = sorted(args.sides), args.rounds
    batch_sizes, devices = BATCH_SIZES, DEVICES
    if args.quick:
        sides, rounds = sides[:2], 3
        batch_sizes, devices = (BATCH_SIZES[0], BATCH_SIZE), (DEVICES[0], DEVICES[-1])
    side = sides[0]  # where the batch and the devices grow
    of_side = lambda side: on_one_device(side, BATCH_SIZE)
    of_batch = lambda batch_size: on_one_device(side, batch_size)
    at_batch, at_side = f"batch {BATCH_SIZE}", f"side {side}"
    rows = growth("side", sides, of_side, fixed=at_batch, order=2, rounds=rounds)
    rows += growth("batch", batch_sizes, of_batch, fixed=at_side, order=1, rounds=rounds)
    rows += in_fake_devices(weak_scaling, max(devices), devices, side, rounds)
    measure.report(rows, args.json)


if __name__ == "__main__":
    main()
