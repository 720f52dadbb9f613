"""Prediction against PyTorch's: images per second of a batch, and latency of one image.

    python -m benchmarks.inference [--quick] [--sides 64 128] [--batch 16] [--json FILE]

Probabilities of masks and classes, with saliency, as published, and with the bridge taken out.
PyTorch has the same weights, and computes no gradient but the saliency's, whose pass gives the
features too. It is compiled where that works, and then channels last. All of a case take turns.

On a GPU, the least time that the program's bytes and FLOPs allow is set against its own.
"""

import functools
import itertools
import os
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import convolutions, measure, scaling, torch_multimix
from benchmarks.measure import Row
from multimix_jax.objectives import Network
from multimix_jax.training import machine, parallel

PyTree = Any

row = functools.partial(Row, "inference")


class Case(NamedTuple):
    """Side of the images in pixels, dtype of the computation, and whether with the bridge."""

    side: int
    dtype: str
    saliency: bool

    def __str__(self) -> str:
        with_or_without = "with" if self.saliency else "without"
        return f"side {self.side}, {self.dtype}, {with_or_without} saliency"


class Prediction:
    """Predicts for the same images each time it is called."""

    def __init__(self, network: Network, variables: PyTree, images: np.ndarray):
        self.arguments = jax.device_put(variables), images
        self.predict = parallel.make_predict(network.predict, devices=jax.devices()[:1])

    def __call__(self) -> None:
        jax.block_until_ready(self.predict(*self.arguments))


def compare(case: Case, count: int, form: str | None, rounds: int) -> list[Row]:
    """Ours and PyTorch's, if it has a form here, for so many images at once."""
    what = f"{case}, {'1 image' if count == 1 else f'{count} images'}"
    scaling.log(f"{what}: compiling")
    objective = scaling.objective(case.dtype, use_bridge=case.saliency)
    variables = scaling.random_variables(objective)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, case.side, case.side, 1), dtype=np.uint8)
    ours = Prediction(objective.network, variables, images)
    programs: list[Callable[[], Any]] = [ours]
    if form:
        arguments = variables["params"], images, case.dtype, case.saliency
        programs.append(torch_multimix.Prediction(form, *arguments))
    known = convolutions.of_prediction(case.side, count, case.saliency)
    pieces = {"its convolutions alone": convolutions.ours(known, case.dtype)}
    if form:
        pieces["its convolutions alone, by PyTorch"] = convolutions.of_peer(known, case.dtype)

    scaling.log(f"{what}: timing")
    taken, *others = measure.in_turn([*programs, *pieces.values()], rounds=rounds)
    of_peer, of_pieces = others[: len(programs) - 1], others[len(programs) - 1 :]
    # One image is a matter of latency, more are one of speed.
    unit = "s" if count == 1 else "images/s"
    in_unit = lambda seconds: seconds if count == 1 else count / seconds
    median = statistics.median(taken)
    rows = [] if form else [row(what, in_unit(median), None, unit)]
    for seconds in of_peer:
        peer, ratio = statistics.median(seconds), measure.median_ratio(seconds, taken)
        rows.append(row(f"{what}, against {form}", in_unit(median), in_unit(peer), unit, ratio))
    for piece, seconds in zip(pieces, of_pieces):
        share, of_piece = measure.median_ratio(seconds, taken), statistics.median(seconds)
        rows.append(row(f"{what}: {piece}", of_piece, None, "s", share, "of the prediction"))
    if jax.default_backend() == "gpu":
        predict: Any = jax.jit(objective.network.predict)
        least = measure.roofline(predict.lower(*ours.arguments).compile(), case.dtype)
        share, unit = least / median, "of the roofline"
        rows.append(row(f"{what}, against the roofline", median, least, "s", share, unit))
    return rows


def main() -> None:
    # PyTorch needs memory of the GPU beside JAX.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    parser = measure.parser(__doc__, sides=(64, 128, 256))
    parser.add_argument("--dtypes", nargs="+", choices=measure.DTYPES, default=measure.DTYPES[:1])
    parser.add_argument("--batch", type=int, default=16, help="images at once")
    args = parser.parse_args()
    machine.set_xla_flags()
    sides, dtypes, rounds = args.sides, args.dtypes, args.rounds
    if args.quick:
        sides, dtypes, rounds = sides[:1], dtypes[:1], 3
    form = None
    if torch_multimix.reaches_device():
        compiled = not args.quick and torch_multimix.compiles()  # PyTorch compiles for minutes
        form = torch_multimix.COMPILED if compiled else torch_multimix.EAGER
    rows = []
    for side, dtype, saliency in itertools.product(sides, dtypes, (True, False)):
        for count in (args.batch, 1):
            rows += compare(Case(side, dtype, saliency), count, form, rounds)
    measure.report(rows, args.json)


if __name__ == "__main__":
    main()
