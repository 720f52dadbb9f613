"""Trains and evaluates a model, or a grid of them.

    python launch.py --config=configs/quickstart.py --workdir=runs/quickstart
    python launch.py --config=configs/grid.py:budgets=100/10,size=64 --workdir=runs/grid

Started again it goes on where it stopped, or prints the results of a finished run. Any field of the
config can be set: --config.steps=500.
"""

import contextlib
import errno
import functools
import gc
import json
import logging
import pathlib
import sys
from typing import Any

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

import data_pipelines
from configs import common, grid
from data_pipelines.of_config import preparation, with_packaged
from multimix_jax import objectives
from multimix_jax.commands.quiet import ends_quietly
from multimix_jax.errors import UsageError
from multimix_jax.inference.windows import Windows
from multimix_jax.reporting import tables
from multimix_jax.runs import workdir
from multimix_jax.runs.grid import run_all
from multimix_jax.runs.run import Run
from multimix_jax.training import optimizer, parallel
from multimix_jax.training.preemption import STATUS, Stopped, Stopping
from multimix_jax.training.programs import Programs

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with :arguments if any.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, or of the grid's runs.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train and evaluate, or evaluate.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "One of a cluster's processes; see docs.")
_COORDINATOR = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0.")
_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes that train together.")
_PROCESS = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
_CELL = flags.DEFINE_integer("cell", None, "Run only this one of a grid, counted from 0.")

ERRORS = (UsageError, data_pipelines.DataError, common.ConfigError)


@functools.lru_cache(maxsize=1)  # the runs of a grid share them where they can
def make_programs(fields: str) -> Programs:
    """What a config of these fields (JSON) compiles."""
    c = ConfigDict(json.loads(fields))
    accumulate = c.accumulate or parallel.parts_for_caches(c.batch_size, c.size)
    parallel.check_divisible(c.batch_size, accumulate)
    schedule = optimizer.make_schedule(learning_rate=c.learning_rate, steps=c.steps, **c.schedule)
    return Programs(
        objective=objectives.make_objective(
            c.method, model=c.model, dtype=c.dtype, terms=c.objective
        ),
        optimizer=optimizer.make_optimizer(schedule, **c.optimizer),
        accumulate=accumulate,
        windows=Windows(**c.window) if c.window.patch else None,
        **_fields(c, "parallel ema_decay"),
    )


def make_run(c: ConfigDict, path: pathlib.Path) -> Run:
    """The run that a config describes, in its folder."""
    # Here, since TensorFlow takes seconds to import, and what cannot be run needs none of it.
    from data_pipelines import run_data, streams

    compiled = (
        "method model dtype objective optimizer schedule learning_rate steps batch_size size "
        "accumulate parallel ema_decay window"
    )
    programs = make_programs(json.dumps(_fields(c, compiled), default=ConfigDict.to_dict))
    load = functools.partial(
        data_pipelines.load, cache_bytes=int(c.cache_gib * 2**30), **preparation(c)
    )
    data = run_data.open_run(
        programs.objective.streams,
        load=lambda name: parallel.first_goes_first(functools.partial(load, name)),
        test_data=common.parse_parts(c.test_data),
        **_fields(c, "seg_data cls_data seg_labels cls_labels class_multiple seed split_seed"),
    )
    drawn = data.streams, c.batch_size, c.seed
    share = dict(process_index=jax.process_index(), process_count=jax.process_count())
    return Run(
        path=path,
        config=c.to_dict(),
        ids=data.ids,
        programs=programs,
        batches=functools.partial(streams.train_batches, *drawn, **share),
        ids_of_step=functools.partial(streams.ids_of_step, *drawn),
        validation=data.validation,
        tests=data.tests,
        class_names=data.class_names,
        baseline=data.baseline,
        data_digest=data.digest,
        images_per_step=c.batch_size * sum(s.multiple for s in data.streams.values()),
        **_fields(c, "size seed steps eval_batch_size components"),
    )


def count_classes(c: ConfigDict) -> None:
    """Sets num_classes and mask_channels of 0 to what the training sets have, and with the first
    whether classes exclude each other; and own_files."""
    # Looks at every file, so once where both tasks share a set.
    build = functools.cache(lambda name: data_pipelines.make_builder(name, **preparation(c)))
    for key, data_set in (("num_classes", c.cls_data), ("mask_channels", c.seg_data)):
        if c.model.get(key) != 0:
            continue
        builder = build(data_set)
        count = len(builder.class_names) if key == "num_classes" else builder.mask_channels
        if key == "num_classes" and c.model.use_classifier:
            c.objective.exclusive = builder.exclusive
            if count < 1 + builder.exclusive:
                raise UsageError(
                    f"{data_set} has {count} classes ({', '.join(builder.class_names) or 'none'}), "
                    "but a classifier needs two or more; add labels, or classes.txt beside them, "
                    "or choose a method without a classifier"
                )
        c.model[key] = max(count, 1)
    own = dict.fromkeys(n for n in (c.seg_data, c.cls_data) if n.partition(":")[0] == "folder")
    held = [build(name).contents() for name in own]
    for key in c.own_files:
        c.own_files[key] = ",".join(contents[key] for contents in held if contents[key])


def _fields(c: ConfigDict, names: str) -> dict[str, Any]:
    return {name: c[name] for name in names.split()}


def run_one(c: ConfigDict, path: str | pathlib.Path, stopping: Stopping) -> None:
    """Does what is left to do in a run's folder, and prints its results."""
    common.check(c)
    c = c.copy_and_resolve_references().unlock()
    count_classes(c)
    training = _MODE.value == "train"
    folder = workdir.check(path, c.to_dict(), begin=training)
    results = workdir.finished(folder, c.steps, set(common.parse_parts(c.test_data)))
    if training and results:
        print(f"{folder} is finished; its results:\n{tables.of_run(results)}")
        return
    run = make_run(c, folder)
    if training:
        run.train(stopping, **_fields(c, "log_every eval_every checkpoint_every max_skipped"))
    if parallel.is_first():
        print(tables.of_run(run.evaluate()))
    parallel.wait_for_all()


def main(argv: list[str]) -> None:
    del argv
    try:
        parallel.set_xla_flags()
        with _together():
            status = _run()
    except UsageError as error:
        sys.exit(f"error: {error}")
    if status:
        sys.exit(status)


def _together() -> contextlib.AbstractContextManager:
    where = dict(
        coordinator_address=_COORDINATOR.value,
        num_processes=_PROCESSES.value,
        process_id=_PROCESS.value,
    )
    if _DISTRIBUTED.value or any(value is not None for value in where.values()):
        return parallel.joined(**where)
    return contextlib.nullcontext()


def _run() -> int:
    """Does what the flags ask for; gives the status to end with."""
    absl_logging.set_verbosity(absl_logging.FATAL)  # orbax tells of its every step and error
    logging.getLogger("data_pipelines").setLevel(logging.INFO)
    c = _CONFIG.value
    try:
        parallel.keep_compiled()
        if _CELL.value is not None and "grid" not in c:
            raise UsageError(f"--cell={_CELL.value} is for grids (--config=configs/grid.py)")
        with Stopping(c.grace_period) as stopping:
            run = functools.partial(run_one, stopping=stopping)
            if "grid" in c:
                # An error in one of several processes would leave the others at another run.
                errors = ERRORS if jax.process_count() == 1 else ()
                run_all(grid.cells(c), _WORKDIR.value, run, errors=errors, only=_CELL.value)
            else:
                run(c, _WORKDIR.value)
    except ERRORS as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(
            f"error: the disk of --workdir={_WORKDIR.value} is full ({error}); make room, and the "
            "same command goes on from the last checkpoint"
        )
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return STATUS
    return 0


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with one line in place of a traceback."""
    try:
        argv = flags.FLAGS([argv[0], *with_packaged(argv[1:])])
        _CONFIG.value.lock()  # a file that cannot be read is noticed only when asked for its value
        return argv
    except BrokenPipeError:  # of --help
        raise
    except RecursionError:  # of absl, which looks for similar names
        sys.exit("error: an argument is far too long or too deeply nested; shorten it")
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        sys.exit(f"error: {reason} (fields of --config: see configs/common.py; help: --helpshort)")


@ends_quietly()
def run() -> None:
    """The command, as `python launch.py` or `multimix-train`."""
    sys.modules["__main__"].__doc__ = __doc__  # what --help shows
    gc.set_threshold(100_000, 20, 50)  # tracing makes much, and little of it is garbage
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
    run()
