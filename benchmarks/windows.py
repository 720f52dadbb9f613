"""How windows are laid over a volume: Dice and time of a trained network on its test volumes.

    python -m benchmarks.windows RUN [--quick] [--data_dir DIR] [--json FILE]

RUN is a folder that launch.py trained volumes in. Its network, with its weights best on validation,
predicts every test volume by windows as the released test lays them (a sixth of the patch apart, a
twentieth along the last axis, averaged), half a patch apart with the same and with Gaussian
weights, and a whole patch apart. --quick takes two volumes.
"""

import dataclasses
import functools
import itertools
import pathlib
import statistics
import sys
import time

import numpy as np

import launch
from benchmarks import measure
from benchmarks.dtml import released_stride
from benchmarks.measure import Row
from multimix_jax.commands.train import make_run
from multimix_jax.errors import UsageError
from multimix_jax.evaluation.segmentation import segmentation_metrics
from multimix_jax.inference.predictor import Predictor
from multimix_jax.inference.windows import Windows, window_starts
from multimix_jax.names import Checkpoint, Head
from multimix_jax.runs import workdir
from multimix_jax.runs.spec import RunSpec
from multimix_jax.training import machine
from multimix_jax.training.checkpoint import read_variables

row = functools.partial(Row, "windows")


def compare(path: pathlib.Path, data_dir: str | None, count: int | None) -> list[Row]:
    """Rows of each stride, against the released one, for so many test volumes."""
    config = workdir.read_config(path)
    if data_dir is not None:
        config["data_dir"] = data_dir
    run = make_run(config, RunSpec.of_config(config), path, launch.open_data)
    own = run.spec.prediction
    if own.windows is None:
        raise UsageError(f"{path} predicts without windows; name a run with config.window.patch")
    patch = own.windows.patch
    half = tuple(side // 2 for side in patch)
    windows = {
        "as released": Windows(patch, released_stride(patch), 4, "uniform"),
        "half a patch apart, averaged": Windows(patch, half, 4, "uniform"),
        "half a patch apart, Gaussian": Windows(patch, half, 4, "gaussian"),
        "a patch apart, averaged": Windows(patch, patch, 4, "uniform"),
    }
    (member,) = run.programs.predictor.members
    predictors = {
        name: Predictor([dataclasses.replace(member, spec=dataclasses.replace(own, window=window))])
        for name, window in windows.items()
    }
    like = run.programs.initial_state(run.spec.seed).eval_variables
    step, variables = read_variables(path, Checkpoint.BEST, like)

    dice: dict[str, list[float]] = {name: [] for name in windows}
    seconds: dict[str, list[float]] = {name: [] for name in windows}
    counts: dict[str, list[int]] = {name: [] for name in windows}
    batches = itertools.chain(*(eval_set.batches(1) for eval_set in run.data.tests))
    for batch in itertools.islice(batches, count):
        image, truth = batch["image"], batch["mask"][0, ..., 0] > 0
        for name, predictor in predictors.items():
            predictor([variables], image)  # compiled for these sides
            begun = time.perf_counter()
            answer = predictor([variables], image)
            seconds[name].append(time.perf_counter() - begun)
            mask = predictor.masks(np.asarray(answer[Head.MASK][0]))[..., 0]
            dice[name].append(segmentation_metrics(mask, truth)["dice"])
            counts[name].append(len(window_starts(truth.shape, patch, windows[name].stride)))

    rows, (first, *_) = [], windows
    for name in windows:
        what = f"{name}, {statistics.mean(counts[name]):.1f} windows"
        mean, peer = statistics.mean(dice[name]), statistics.mean(dice[first])
        rows.append(row(f"{what}: Dice", mean, peer, f"of 1, step {step}"))
        ratio = measure.median_ratio(seconds[first], seconds[name])
        ours, other = (statistics.median(seconds[n]) for n in (name, first))
        rows.append(row(f"{what}: a volume", ours, other, "s", ratio))
    return rows


def main() -> None:
    parser = measure.parser(__doc__, sides=())
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--data_dir", default=None, help="that of the run by default")
    args = parser.parse_args()
    machine.set_xla_flags()
    try:
        rows = compare(args.run, args.data_dir, 2 if args.quick else None)
    except UsageError as error:
        sys.exit(f"error: {error}")
    measure.report(rows, args.json)


if __name__ == "__main__":
    main()
