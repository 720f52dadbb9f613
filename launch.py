"""Trains and evaluates a model.

    python launch.py --config=configs/quickstart.py --workdir=runs/quickstart

Started again with the same flags it goes on where it stopped, or prints the results of a finished
run. Any field of the config can be set: --config.steps=500.
"""

import functools
import logging
import sys
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

import data_pipelines
from data_pipelines import input_pipeline, run_data
from multimix_jax import objectives, optimizer, parallel, report, workdir
from multimix_jax.errors import UsageError
from multimix_jax.run import Run

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with :arguments if any.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train and evaluate, or evaluate.")


def make_run(c: ConfigDict, path: str, *, begin: bool = True) -> Run:
    """The run that a config describes, in its workdir; `begin` says whether it may begin there."""
    folder = workdir.check(path, c.to_dict(), begin=begin)
    parallel.check_divisible(c.batch_size, c.accumulate)
    method = objectives.make_objective(c.method, model=c.model, dtype=c.dtype, terms=c.objective)
    schedule = optimizer.make_schedule(learning_rate=c.learning_rate, steps=c.steps, **c.schedule)
    data = run_data.open_run(
        method.streams,
        load=functools.partial(
            data_pipelines.load,
            data_dir=c.data_dir,
            prepared_dir=c.prepared_dir,
            size=c.size,
            cache_bytes=int(c.cache_gib * 2**30),
        ),
        **_fields(c, "seg_data cls_data test_data seg_labels cls_labels seed split_seed"),
    )
    return Run(
        path=folder,
        config=c.to_dict(),
        ids=data.ids,
        objective=method,
        optimizer=optimizer.make_optimizer(schedule, **c.optimizer),
        batches=functools.partial(input_pipeline.train_batches, data.streams, c.batch_size, c.seed),
        validation=data.validation,
        tests=data.tests,
        class_names=data.class_names,
        data=data.digest,
        images_per_step=c.batch_size * len(data.streams),
        **_fields(c, "size seed steps parallel ema_decay accumulate eval_batch_size"),
    )


def _fields(c: ConfigDict, names: str) -> dict[str, Any]:
    return {name: c[name] for name in names.split()}


def main(argv: list[str]) -> None:
    del argv
    absl_logging.set_verbosity(absl_logging.WARNING)  # orbax tells of its every step
    logging.getLogger("data_pipelines").setLevel(logging.INFO)
    c = _CONFIG.value
    try:
        parallel.keep_compiled()
        training = _MODE.value == "train"
        run = make_run(c, _WORKDIR.value, begin=training)
        results = run.finished() if training else None
        if results:
            print(f"{run.path} is finished; its results:")
        else:
            if training:
                run.train(**_fields(c, "log_every eval_every checkpoint_every"))
            results = run.evaluate()
        print(report.table(results))
    except (UsageError, data_pipelines.DataError) as error:
        sys.exit(f"error: {error}")


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with one line in place of a traceback for a field that does not exist."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        sys.exit(
            f"error: --config: {error}; the fields are in configs/common.py, and the arguments "
            "behind the colon in the docstring of the config file"
        )


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)
