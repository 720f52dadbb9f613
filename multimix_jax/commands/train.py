"""What is left to do of a run, or of a grid of runs, from a config to printed results."""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from tqdm import tqdm

from multimix_jax import atomic
from multimix_jax.errors import UsageError
from multimix_jax.names import Stream
from multimix_jax.objectives import make_objective
from multimix_jax.reporting import tables
from multimix_jax.reporting.observer import PictureObserver
from multimix_jax.runs import workdir
from multimix_jax.runs.data import RunData
from multimix_jax.runs.programs import make_programs
from multimix_jax.runs.run import Run
from multimix_jax.runs.spec import RunSpec
from multimix_jax.training import parallel
from multimix_jax.training.preemption import STATUS, Preempted, PreemptionGuard

OpenData = Callable[[Mapping[str, Any], RunSpec, Sequence[Stream]], RunData]


@dataclasses.dataclass(frozen=True)
class Parts:
    """What training takes from the data pipelines."""

    open_data: OpenData  # opens, and where need be prepares, the data of a run with these streams
    contents: Callable[[Mapping[str, Any]], Mapping[str, str]]  # digests of own files, by kind


def run_config(
    config: Mapping[str, Any],
    path: str | pathlib.Path,
    parts: Parts,
    mode: str,
    cells: Mapping[str, Mapping[str, Any]],
    only: int | None,
) -> int:
    """Goes on with the run of a config in `path`, or with the `cells` of a grid, if there are any,
    in folders below it; gives the status to end with.

    `mode`: 'train' trains and evaluates, 'eval' evaluates again; `only`: the one cell to run,
    counted from 0, None for all.
    """
    if only is not None and not cells:
        raise UsageError(f"--cell={only} is for grids (--config=configs/grid.py)")
    try:
        with PreemptionGuard(config["grace_period"]) as guard:
            run = functools.partial(run_one, parts=parts, guard=guard, mode=mode)
            if cells:
                # An error in one of several processes would leave the others at another run.
                errors = (UsageError,) if jax.process_count() == 1 else ()
                run_all(cells, path, run, errors=errors, only=only)
            else:
                run(config, path)
    except Preempted as preempted:
        print(preempted, file=sys.stderr)
        return STATUS
    return 0


def run_all(
    cells: Mapping[str, Any],
    path: str | pathlib.Path,
    run: Callable[[Any, pathlib.Path], object],
    *,
    errors: tuple[type[Exception], ...],
    only: int | None = None,
) -> None:
    """Runs every cell in `path/NAME`, or `only` one, counted from 0.

    `run` goes on with a config's run in its folder, if anything is left to do; where it raises one
    of `errors`, the other cells are run all the same, and a UsageError names it at the end.
    """
    if only is not None and not 0 <= only < len(cells):
        raise UsageError(f"--cell={only}, but the grid's cells are 0 to {len(cells) - 1}")
    path = pathlib.Path(path)
    if path.exists() and not path.is_dir():
        raise UsageError(f"--workdir={path} is a file; use the path of a folder")
    if (path / workdir.CONFIG).exists():
        raise UsageError(f"--workdir={path} holds a single run; use another folder for a grid")
    chosen = [(place, name) for place, name in enumerate(cells) if only in (None, place)]
    failed = []
    with tqdm(total=len(chosen), desc="Grid", unit=" runs", disable=None) as bar:
        for place, name in chosen:
            bar.write(f"cell {place} of 0 to {len(cells) - 1}: {name}")
            try:
                run(cells[name], path / name)
            except errors as error:
                failed.append(f"{name}: {error}")
                bar.write(f"error: {error}")
            bar.update()
    if failed:
        raise UsageError(f"{len(failed)} of {len(chosen)} runs failed: {'; '.join(failed)}")


def run_one(
    config: Mapping[str, Any],
    path: str | pathlib.Path,
    *,
    parts: Parts,
    guard: PreemptionGuard,
    mode: str,
) -> None:
    """Does what is left to do in a run's folder, and prints its results."""
    train, spec = mode == "train", RunSpec.of_config(config)
    folder = workdir.check(path, config, parts.contents(config), begin=train)
    results = workdir.finished(folder, spec.training.steps, set(spec.data.tests))
    if train and results:
        print(f"{folder} is finished; its results:\n{tables.of_run(results)}")
        return
    with atomic.writing("--workdir", folder):
        run = make_run(config, spec, folder, parts.open_data)
        if train:
            run.train(guard)
        if parallel.is_first():
            print(tables.of_run(run.evaluate()))
        parallel.wait_for_all()


def make_run(
    config: Mapping[str, Any], spec: RunSpec, path: pathlib.Path, open_data: OpenData
) -> Run:
    """The run that a config, and its spec, describe, in its folder."""
    data = open_data(config, spec, make_objective(spec.objective).streams)
    programs = make_programs(
        spec.objective, spec.data.size, spec.training, spec.prediction, data.label_spec
    )
    return Run(path, config, spec, programs, data, PictureObserver(path, spec, data))
