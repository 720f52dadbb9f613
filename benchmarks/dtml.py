"""DTML in 3D against PyTorch: one training step, and the prediction of a volume by windows.

    python -m benchmarks.dtml [--quick] [--patch 56 56 40] [--volume 97 71 44] [--filters 16]
        [--levels 4] [--rounds 7] [--json FILE]

The step is that of both networks on two labelled and two unlabelled patches, as published; PyTorch
computes the same, in its own layout and with channels last. The prediction is that of the released
test: windows a sixth of the patch apart (a twentieth along the last axis), one at a time, outputs
averaged; ours takes the same windows, in batches, and then those that runs take by default, half a
patch apart with Gaussian weights. All of a case take turns.
"""

import functools
import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import measure, scaling, torch_vnet
from benchmarks.measure import Row
from multimix_jax.inference.predictor import Member, PredictionSpec, Predictor
from multimix_jax.inference.windows import Windows, window_starts
from multimix_jax.models import VNet
from multimix_jax.names import Head
from multimix_jax.objectives import DtmlObjective
from multimix_jax.state import TrainState
from multimix_jax.training import machine
from multimix_jax.training.step import make_train_step

row = functools.partial(Row, "dtml")
CONVOLUTIONS = (1, 2, 3, 3, 3)
RATE, MOMENTUM, DECAY = 0.01, 0.9, 1e-4


def shown(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))


def released_stride(patch: Sequence[int]) -> tuple[int, ...]:
    """18x18x4 voxels for the published patch of 112x112x80."""
    return tuple(max(side * n // of, 1) for side, n, of in zip(patch, (18, 18, 1), (112, 112, 20)))


def variables_of(objective: DtmlObjective) -> Any:
    """Weights of both networks; statistics of batches as after a while."""
    variables = jax.jit(objective.network.init, static_argnums=1)(jax.random.key(0), 0)
    return jax.tree.map(np.asarray, variables)


def steps(objective: DtmlObjective, rounds: int, what: str) -> list[Row]:
    """Seconds of one training step."""
    rng = np.random.default_rng(0)
    image = lambda: rng.normal(size=(2, *objective.patch, 1)).astype(np.float32)
    mask = (image() > 1).astype(np.uint8)
    batch = {"seg/labeled": {"image": image(), "mask": mask}, "seg/unlabeled": {"image": image()}}
    optimizer = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE, MOMENTUM))
    step = jax.jit(make_train_step(objective, optimizer), donate_argnums=0)
    variables = variables_of(objective)
    ours = scaling.Step(step, TrainState.create(variables, optimizer), batch)
    programs: dict[str, Callable[[], Any]] = {"": ours}
    for name, last in (("as released", False), ("channels last", True)):
        programs[name] = torch_vnet.Step(objective, variables, batch, channels_last=last)
    scaling.log(f"{what}: compiling and timing")
    taken, *others = measure.in_turn(list(programs.values()), rounds=rounds)
    return [
        row(
            f"{what}, against PyTorch {name}",
            statistics.median(taken),
            statistics.median(seconds),
            "s",
            measure.median_ratio(seconds, taken),
        )
        for name, seconds in zip(list(programs)[1:], others)
    ]


def predictions(objective: DtmlObjective, volume: Sequence[int], rounds: int) -> list[Row]:
    """Seconds of the prediction of one volume, by `seg` alone as the released test does it."""
    alone = DtmlObjective(seg=objective.seg, sdf=None, patch=objective.patch)
    variables = variables_of(alone)
    image = np.random.default_rng(0).normal(size=(*volume, 1)).astype(np.float32)
    patch = objective.patch
    released = released_stride(patch)
    half = tuple(side // 2 for side in patch)
    by = lambda *window: Predictor([Member(alone.network, PredictionSpec(window=Windows(*window)))])
    own, default = by(patch, released, 4, "uniform"), by(patch, half, 4, "gaussian")
    peer = torch_vnet.SlidingWindow(alone, variables, patch, released)
    arguments = [jax.device_put(variables)], image[None]
    scaling.log("prediction: compiling and timing")
    slow, taken, quick = measure.in_turn(
        [lambda: peer(image), lambda: own(*arguments), lambda: default(*arguments)],
        rounds=rounds,
        warmup=1,
    )
    difference = float(np.abs(peer(image) - own(*arguments)[Head.MASK][0]).max())
    count = lambda stride: len(window_starts(volume, patch, stride))
    what = f"prediction of {shown(volume)}"
    median = statistics.median
    return [
        row(
            f"{what}, the same {count(released)} windows",
            *(median(taken), median(slow), "s", measure.median_ratio(slow, taken)),
        ),
        row(f"{what}: largest difference of a probability", difference, None, "of 1"),
        row(
            f"{what}, {count(half)} windows against {count(released)}",
            *(median(quick), median(slow), "s", measure.median_ratio(slow, quick)),
        ),
    ]


def main() -> None:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    parser = measure.parser(__doc__, sides=())
    parser.add_argument("--patch", type=int, nargs=3, default=[56, 56, 40])
    parser.add_argument("--volume", type=int, nargs=3, default=[97, 71, 44])
    parser.add_argument("--filters", type=int, default=16, help="of the first level")
    parser.add_argument("--levels", type=int, default=4, help="of V-Net; five for 112x112x80")
    args = parser.parse_args()
    machine.set_xla_flags()
    patch, volume, filters, rounds = args.patch, args.volume, args.filters, args.rounds
    if args.quick:
        patch, volume, filters, rounds = [24, 24, 16], [40, 32, 20], 8, 3
    net = functools.partial(
        VNet,
        filters=filters,
        convolutions=CONVOLUTIONS[: args.levels],
        dropout_rate=0.0,  # PyTorch would draw other masks
        dtype=jnp.float32,
    )
    objective = DtmlObjective(seg=net(), sdf=net(heads=("sdf",)), patch=tuple(patch), turn=False)
    what = f"step, patch {shown(patch)}, {filters} filters, {args.levels} levels"
    rows = steps(objective, rounds, what) + predictions(objective, volume, rounds)
    measure.report(rows, args.json)


if __name__ == "__main__":
    main()
