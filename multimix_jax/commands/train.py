"""One run: what is left to do of it, from a config to its printed results."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
from multimix_jax.training.preemption import PreemptionGuard

OpenData = Callable[[Mapping[str, Any], RunSpec, Sequence[Stream]], RunData]


def run_one(
    config: Mapping[str, Any],
    path: str | pathlib.Path,
    *,
    open_data: OpenData,
    contents: Callable[[Mapping[str, Any]], Mapping[str, str]],
    guard: PreemptionGuard,
    mode: str = "train",
) -> None:
    """Does what is left to do in a run's folder, and prints its results.

    Args:
      config: the fields of configs/common.py, as JSON values.
      path: folder of the run.
      open_data: opens, and where need be prepares, the data of a run with these streams.
      contents: digests of what the config's own folders hold, by kind of file.
      guard: notes signals.
      mode: 'train' trains and evaluates; 'eval' evaluates again.

    Raises:
      UsageError: something that was asked for cannot be done.
    """
    train, spec = mode == "train", RunSpec.of_config(config)
    folder = workdir.check(path, config, begin=train)
    workdir.check_contents(folder, contents(config))
    results = workdir.finished(folder, spec.training.steps, set(spec.data.tests))
    if train and results:
        print(f"{folder} is finished; its results:\n{tables.of_run(results)}")
        return
    run = make_run(config, folder, open_data)
    if train:
        run.train(guard)
    if parallel.is_first():
        print(tables.of_run(run.evaluate()))
    parallel.wait_for_all()


def make_run(config: Mapping[str, Any], path: pathlib.Path, open_data: OpenData) -> Run:
    """The run that a config describes, in its folder.

    Raises:
      UsageError: something that was asked for cannot be done.
    """
    spec = RunSpec.of_config(config)
    streams = make_objective(
        spec.method, model=spec.model, dtype=spec.training.dtype, terms=spec.objective
    ).streams
    data = open_data(config, spec, streams)
    programs = make_programs(
        method=spec.method,
        model=spec.model,
        terms=spec.objective,
        size=spec.data.size,
        training=spec.training.compiled,
        prediction=spec.prediction,
        labels=data.label_spec,
    )
    return Run(path, config, spec, programs, data, PictureObserver(path, spec, data))
