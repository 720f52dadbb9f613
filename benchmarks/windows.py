"""How windows are laid over a volume: Dice and time of a trained network on its test volumes.

    python -m benchmarks.windows RUN [--data_dir DIR] [--json FILE]

RUN is a folder that launch.py trained volumes in. Its network, best on validation, predicts every
test volume by windows as the released test lays them (a sixth of the patch apart, a twentieth along
the last axis, averaged), half a patch apart with the same and with Gaussian weights, and a whole
patch apart.
"""

import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import data_pipelines
from benchmarks import measure
from benchmarks.dtml import released_stride
from benchmarks.measure import Row
from data_pipelines.arguments import preparation
from multimix_jax.evaluation.geometry import largest_components
from multimix_jax.evaluation.segmentation import segmentation_metrics
from multimix_jax.inference.windows import Windows, make_sliding_window, window_starts
from multimix_jax.names import Checkpoint
from multimix_jax.objectives import make_objective
from multimix_jax.runs import workdir
from multimix_jax.training import machine
from multimix_jax.training.checkpoint import read_variables


def main() -> None:
    parser = measure.parser(__doc__, sides=())
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--data_dir", default=None, help="that of the run by default")
    args = parser.parse_args()
    machine.set_xla_flags()
    c = ConfigDict(json.loads((args.run / workdir.CONFIG).read_text(encoding="utf-8")))
    if args.data_dir is not None:
        c.data_dir = args.data_dir
    objective = make_objective(c.method, model=c.model, dtype=c.dtype, terms=c.objective)
    like = jax.eval_shape(lambda: objective.init(jax.random.key(0), c.size))
    like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    step, variables = read_variables(args.run, Checkpoint.BEST, like)
    examples = data_pipelines.load(c.seg_data, **preparation(c.to_dict()))
    ids = json.loads((args.run / workdir.IDS).read_text(encoding="utf-8"))["test"][c.seg_data]
    chosen = np.flatnonzero(np.isin(examples.ids, ids))[: 2 if args.quick else None]

    patch = tuple(c.window.patch)
    half = tuple(side // 2 for side in patch)
    released = released_stride(patch)
    ways = {
        "as released": (released, "uniform"),
        "half a patch apart, averaged": (half, "uniform"),
        "half a patch apart, Gaussian": (half, "gaussian"),
        "a patch apart, averaged": (patch, "uniform"),
    }
    compiled = {
        name: make_sliding_window(objective.predict, Windows(patch, stride, 4, weights))
        for name, (stride, weights) in ways.items()
    }
    dice: dict[str, list[float]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    counts: dict[str, list[int]] = {name: [] for name in ways}
    for index in chosen:
        inside = tuple(map(slice, examples.extents[index]))
        arrays = examples.fetch(np.array([index]))
        image, truth = arrays["image"][0][inside], arrays["mask"][0][inside][..., 0] > 0
        for name, predict in compiled.items():
            predict(variables, image)  # compiled for these sides
            begun = time.perf_counter()
            mask = predict(variables, image)["mask"] > 0.5
            seconds[name].append(time.perf_counter() - begun)
            found = largest_components(mask, 1)[..., 0]
            dice[name].append(segmentation_metrics(found, truth)["dice"])
            counts[name].append(len(window_starts(truth.shape, patch, ways[name][0])))
    first, rows = next(iter(ways)), []
    for name in ways:
        what = f"{name}, {statistics.mean(counts[name]):.1f} windows"
        mean, peer = statistics.mean(dice[name]), statistics.mean(dice[first])
        rows.append(Row("windows", f"{what}: Dice", mean, peer, f"of 1, step {step}"))
        ratio = measure.median_ratio(seconds[first], seconds[name])
        own, other = (statistics.median(seconds[n]) for n in (name, first))
        rows.append(Row("windows", f"{what}: a volume", own, other, "s", ratio))
    measure.report(rows, args.json)


if __name__ == "__main__":
    main()
