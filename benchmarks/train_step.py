"""One training step of MultiMix against PyTorch's: time, memory, arithmetic, and where time goes.

    python -m benchmarks.train_step [--quick] [--sides 64 128] [--peers published] [--json FILE]

The published network and loss, Adam, and a batch of 8-bit images that lies on the device. The two
forms of PyTorch's step, published and best effort, are described in benchmarks/torch_multimix.py.
The published one stays in float32. Neither augments, while ours does: this favours PyTorch. All
programs of a case take turns; the shares of the parts are of the step beside them.

Memory is what three steps take beyond the peak that the process had reached with its weights and
its batch. Each program has a process of its own, where it finds itself compiled already: what
loading ours takes is in one figure and not in the other. On a GPU, the least time that the step's
bytes and FLOPs allow is set against its own.
"""

import concurrent.futures
import functools
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import convolutions, measure, scaling, torch_multimix
from benchmarks.measure import Row
from multimix_jax.keys import ExampleKeys
from multimix_jax.training import machine, parallel
from multimix_jax.training.step import make_train_step

PyTree = Any
Program = Callable[[], Any]  # returns when its work is done
PEERS = ("published", "best")

row = functools.partial(Row, "train_step")


class Case(NamedTuple):
    """Side of the images in pixels, dtype of the computation, images per stream."""

    side: int
    dtype: str
    batch_size: int

    def __str__(self) -> str:
        return f"side {self.side}, {self.dtype}"


class OurStep:
    """One step of ours each time it is called."""

    def __init__(self, case: Case):
        self.objective: Any = scaling.objective(case.dtype)
        self.state = scaling.first_state()
        self.batch = jax.device_put(scaling.random_batch(case.side, case.batch_size))
        self.parts = parallel.micro_batches_for_caches(case.batch_size, case.side, 1)
        step = make_train_step(self.objective, scaling.adam(), accumulate=self.parts)
        self.step: Any = jax.jit(step, donate_argnums=0)

    def compile(self) -> Any:
        """Compiles the step beforehand."""
        self.step = self.step.lower(self.state, self.batch).compile()
        return self.step

    def flops(self) -> float:
        """By XLA's cost analysis, which counts a loop's body once: of the batch in one part."""
        step: Any = jax.jit(make_train_step(self.objective, scaling.adam()))
        return step.lower(self.state, self.batch).cost_analysis()["flops"]

    def __call__(self) -> None:
        self.state, metrics = self.step(self.state, self.batch)
        jax.block_until_ready((self.state, metrics))


def peer_step(case: Case, form: str) -> Program:
    """PyTorch's step in this form, with our weights; its views are the images as they are."""
    batch = scaling.random_batch(case.side, case.batch_size)
    unlabeled = batch["cls/unlabeled"]["image"]
    views = torch_multimix.load_views(
        batch, labeled=batch["cls/labeled"]["image"], weak=unlabeled, strong=unlabeled
    )
    return torch_multimix.Step(form, scaling.first_state().params, views, case.dtype)


def peer_forms(names: Sequence[str], quick: bool) -> list[str]:
    """The forms of PyTorch's step that can run here; its compilation is not quick."""
    if not (names and torch_multimix.reaches_device()):
        return []
    best = torch_multimix.BEST_EAGER
    if "best" in names and not quick and torch_multimix.compiles():
        best = torch_multimix.BEST
    return [{"published": torch_multimix.PUBLISHED, "best": best}[name] for name in names]


def memory(make: Callable[..., Program], *arguments: Any) -> tuple[float, float]:
    """MiB that three steps of `make(*arguments)` take, with and without our compiled program."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as process:
        return process.submit(_memory, make, *arguments).result()


def _memory(make: Callable[..., Program], *arguments: Any) -> tuple[float, float]:
    program = make(*arguments)
    peak = torch_multimix.peak_memory
    if isinstance(program, OurStep):
        peak = measure.peak_memory
    built = loaded = peak()
    if isinstance(program, OurStep):
        program.compile()
        loaded = peak()
    for _ in range(3):
        program()
    return (peak() - built) / 2**20, (peak() - loaded) / 2**20


def parts(ours: OurStep, case: Case) -> dict[str, Program]:
    """What the step consists of, each part compiled by itself, on noise.

    As in the step, a batch goes through the network in parts.
    """
    objective, optimizer = ours.objective, scaling.adam()
    size = case.batch_size // ours.parts
    state = jax.tree.map(jnp.copy, ours.state)  # the step takes its own away
    params = state.params
    rng = np.random.default_rng(0)

    def noise(like: PyTree) -> PyTree:
        draw = lambda x: jnp.asarray(rng.uniform(-1, 1, x.shape), x.dtype)
        return jax.tree.map(draw, like)

    def images(streams: int) -> tuple[jax.Array, jax.Array]:
        """Of so many streams, with their keys for dropout."""
        count = streams * size
        keys = jax.random.split(jax.random.key(0), count)
        return noise(jax.ShapeDtypeStruct((count, case.side, case.side, 1), jnp.float32)), keys

    def apply(method: str, params: PyTree, *args: Any) -> Any:
        return objective.model.apply({"params": params}, *args, method=method)

    def weak_view(params: PyTree, *args: Any) -> Any:
        return apply("classify", params, apply("encode", params, *args))

    def decode(params: PyTree, features: PyTree, images: Any, saliency: Any, keys: Any) -> Any:
        return apply("segment", params, images, features, saliency, keys)

    def update(grads: PyTree, opt_state: PyTree, params: PyTree) -> PyTree:
        updates, opt_state = optimizer.update(grads, opt_state, params)
        updated = optax.apply_updates(params, updates)
        return updated, opt_state, optax.incremental_update(updated, params, 0.001)

    def once(function: Callable[..., Any], *args: Any) -> Program:
        program = jax.jit(function)
        return lambda: jax.block_until_ready(program(*args))

    def forward(function: Callable[..., Any], *args: Any) -> Program:
        program = once(function, *args)
        return lambda: [program() for _ in range(ours.parts)]

    def both(function: Callable[..., Any], inputs: tuple[Any, ...], *args: Any) -> Program:
        """Forward, and backward to the inputs."""

        def back(inputs: tuple[Any, ...], args: tuple[Any, ...], cotangents: PyTree) -> PyTree:
            return jax.vjp(lambda *inputs: function(*inputs, *args), *inputs)[1](cotangents)

        cotangents = noise(jax.eval_shape(function, *inputs, *args))
        return forward(back, inputs, args, cotangents)

    encode, saliency = functools.partial(apply, "encode"), functools.partial(apply, "saliency")
    to_segment, keys = images(2)
    features = noise(jax.eval_shape(encode, params, to_segment))
    return {
        "augmentation": once(objective.views, ours.batch, ExampleKeys(jax.random.key(0))),
        "saliency": forward(saliency, params, to_segment),
        "encoder, forward and backward": both(encode, (params,), *images(4)),
        "encoder, weak view": forward(weak_view, params, *images(1)),
        "decoder, forward and backward": both(
            decode, (params, features), to_segment, to_segment, keys
        ),
        "optimiser and moving average": once(update, params, state.opt_state, params),
    }


def compare_memory(case: Case, forms: Sequence[str]) -> list[Row]:
    """What three steps take, ours and PyTorch's."""
    scaling.log(f"{case}: measuring memory")
    ours = dict(zip(("memory", "memory but for our program"), memory(OurStep, case)))
    rows = []
    if not forms:
        rows = [row(f"{case}: {what}", size, None, "MiB") for what, size in ours.items()]
    for form in forms:
        peer, _ = memory(peer_step, case, form)
        for what, size in ours.items():
            name = f"{case}: {what}, against {form}"
            rows.append(row(name, size, peer, "MiB", size / peer, "of the peer's"))
    return rows


def compare_time(case: Case, forms: Sequence[str], rounds: int) -> list[Row]:
    """Time of the step, ours and PyTorch's; the shares of its parts; and what it computes."""
    scaling.log(f"{case}: compiling")
    ours = OurStep(case)
    begun = time.perf_counter()
    program = ours.compile()
    rows = [row(f"{case}: compilation", time.perf_counter() - begun, None, "s")]
    planned = program.memory_analysis().temp_size_in_bytes / 2**20
    rows.append(row(f"{case}: temporary memory by XLA's plan", planned, None, "MiB"))
    known = convolutions.of_step(case.side, case.batch_size)
    of_part = convolutions.of_step(case.side, case.batch_size // ours.parts)
    alone = convolutions.ours(of_part, case.dtype)
    pieces = parts(ours, case)
    pieces["its convolutions alone"] = lambda: [alone() for _ in range(ours.parts)]
    if forms:
        pieces["its convolutions alone, by PyTorch"] = convolutions.of_peer(known, case.dtype)
    steps = [peer_step(case, form) for form in forms]

    scaling.log(f"{case}: timing")
    seconds, *others = measure.in_turn([ours, *steps, *pieces.values()], rounds=rounds)
    median = statistics.median(seconds)
    if not forms:
        rows.append(row(f"{case}: step", median, None, "s"))
    for form, taken in zip(forms, others):
        ratio = measure.median_ratio(taken, seconds)
        peer = statistics.median(taken)
        rows.append(row(f"{case}: step, against {form}", median, peer, "s", ratio))
    for part, taken in zip(pieces, others[len(steps) :]):
        share, of_piece = measure.median_ratio(taken, seconds), statistics.median(taken)
        rows.append(row(f"{case}: {part}", of_piece, None, "s", share, "of the step"))

    best, arithmetic = measure.matrix_rate(case.dtype), sum(c.flops for c in known)
    for whose, count in ("by XLA", ours.flops()), ("of the network", arithmetic):
        rate, unit = count / median, "of the matrix rate"
        rows.append(row(f"{case}: arithmetic {whose}", count, None, "FLOP"))
        rows.append(row(f"{case}: rate {whose}", rate, best, "FLOP/s", rate / best, unit))
    if jax.default_backend() == "gpu":
        least = measure.roofline(program, case.dtype, arithmetic=arithmetic)
        share, unit = least / median, "of the roofline"
        rows.append(row(f"{case}: step, against the roofline", median, least, "s", share, unit))
    return rows


def main() -> None:
    # PyTorch and the other processes need memory of the GPU beside JAX.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    parser = measure.parser(__doc__, sides=(64, 128, 256))
    parser.add_argument("--dtypes", nargs="+", choices=measure.DTYPES, default=measure.DTYPES)
    parser.add_argument("--batch", type=int, default=scaling.BATCH_SIZE, help="images per stream")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    args = parser.parse_args()
    machine.set_xla_flags()
    sides, dtypes, rounds = args.sides, args.dtypes, args.rounds
    if args.quick:
        sides, dtypes, rounds = sides[:1], dtypes[:1], 3
    forms = peer_forms(args.peers, args.quick)
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache  # of the processes to come
        jax.config.update("jax_compilation_cache_dir", cache)
        for side, dtype in itertools.product(sides, dtypes):
            case = Case(side, dtype, args.batch)
            rows += compare_time(case, forms, rounds) + compare_memory(case, forms)
    measure.report(rows, args.json)


if __name__ == "__main__":
    main()
