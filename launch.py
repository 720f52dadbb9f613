"""Trains and evaluates a model.

    python launch.py --config=configs/quickstart.py --workdir=runs/quickstart

Started again it goes on where it stopped, or prints the results of a finished run. Any field of the
config can be set: --config.steps=500.
"""

import functools
import logging
import sys
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

import data_pipelines
from configs import common
from data_pipelines import input_pipeline, run_data
from multimix_jax import objectives, optimizer, parallel, report, workdir
from multimix_jax.errors import UsageError
from multimix_jax.run import Run

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with :arguments if any.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train and evaluate, or evaluate.")


def make_run(c: ConfigDict, path: str, *, begin: bool = True) -> Run:
    """The run that a config describes, in its workdir; `begin` says whether it may begin there."""
    common.check(c)
    folder = workdir.check(path, c.to_dict(), begin=begin)
    accumulate = c.accumulate or parallel.parts_for_caches(c.batch_size, c.size)
    parallel.check_divisible(c.batch_size, accumulate)
    method = objectives.make_objective(c.method, model=c.model, dtype=c.dtype, terms=c.objective)
    schedule = optimizer.make_schedule(learning_rate=c.learning_rate, steps=c.steps, **c.schedule)
    data = run_data.open_run(
        method.streams,
        load=functools.partial(
            data_pipelines.load,
            cache_bytes=int(c.cache_gib * 2**30),
            **_fields(c, "data_dir prepared_dir size"),
        ),
        test_data=common.parse_parts(c.test_data),
        **_fields(c, "seg_data cls_data seg_labels cls_labels seed split_seed"),
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
        data_digest=data.digest,
        images_per_step=c.batch_size * len(data.streams),
        accumulate=accumulate,
        **_fields(c, "size seed steps parallel ema_decay eval_batch_size"),
    )


def _fields(c: ConfigDict, names: str) -> dict[str, Any]:
    return {name: c[name] for name in names.split()}


def main(argv: list[str]) -> None:
    del argv
    absl_logging.set_verbosity(absl_logging.WARNING)  # orbax tells of its every step
    logging.getLogger("data_pipelines").setLevel(logging.INFO)
    c, training = _CONFIG.value, _MODE.value == "train"
    try:
        parallel.set_xla_flags()
        parallel.keep_compiled()
        run = make_run(c, _WORKDIR.value, begin=training)
        results = run.finished() if training else None
        if results:
            print(f"{run.path} is finished; its results:")
        else:
            if training:
                run.train(**_fields(c, "log_every eval_every checkpoint_every"))
            results = run.evaluate()
        print(report.table(results))
    except (UsageError, data_pipelines.DataError, common.ConfigError) as error:
        sys.exit(f"error: {error}")


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with one line in place of a traceback."""
    try:
        argv = flags.FLAGS(argv)
        _CONFIG.value.lock()  # a file that cannot be read is noticed only when asked for its value
        return argv
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        sys.exit(f"error: {reason} (fields of --config: see configs/common.py; help: --helpshort)")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)
