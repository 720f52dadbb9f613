"""Trains and evaluates a model, or a grid of them.

    python launch.py --config=configs/quickstart.py --workdir=runs/quickstart
    python launch.py --config=configs/grid.py:budgets=100/10,size=64 --workdir=runs/grid

Started again it goes on where it stopped, or prints the results of a finished run. Any field of the
config can be set: --config.steps=500.
"""

import functools
import gc
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from configs import common, grid
from data_pipelines import arguments, contents, image_files
from multimix_jax.commands import predict as predict_command
from multimix_jax.commands import train
from multimix_jax.commands.ends import ends_quietly
from multimix_jax.errors import UsageError
from multimix_jax.names import Stream
from multimix_jax.runs.data import RunData
from multimix_jax.runs.spec import RunSpec
from multimix_jax.training import machine, parallel

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with :arguments if any.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, or of the grid's runs.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train and evaluate, or evaluate.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "One of a cluster's processes; see docs.")
_COORDINATOR = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0.")
_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes that train together.")
_PROCESS = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
_CELL = flags.DEFINE_integer("cell", None, "Run only this one of a grid, counted from 0.")

ERRORS = (UsageError, common.ConfigError)


def open_data(config: Mapping[str, Any], spec: RunSpec, streams: Sequence[Stream]) -> RunData:
    """The data of a run; the first process prepares them."""
    from data_pipelines import run_data  # here, since TensorFlow takes seconds to import

    return run_data.open_run(
        config,
        streams,
        test_data=spec.data.tests,
        process=(jax.process_index(), jax.process_count()),
        one_first=parallel.process_0_first,
    )


def launch(c: ConfigDict, workdir: str, mode: str = "train", cell: int | None = None) -> int:
    """Does what the flags ask for; gives the status to end with."""
    machine.keep_compiled()
    absl_logging.set_verbosity(absl_logging.FATAL)  # orbax reports its every step and error
    logging.getLogger("data_pipelines").setLevel(logging.INFO)
    cells = {name: one.to_dict() for name, one in grid.cells(c).items()} if "grid" in c else {}
    parts = train.Parts(open_data, contents)
    return train.run_config(c.to_dict(), workdir, parts, mode, cells, cell)


def main(argv: list[str]) -> None:
    del argv
    machine.set_xla_flags()
    address = (_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    session = parallel.distributed_session(*address, of_cluster=_DISTRIBUTED.value)
    errors = functools.partial(ends_quietly, ERRORS)
    with errors(), session, errors():  # of joining the others, and of all that is done with them
        status = launch(_CONFIG.value, _WORKDIR.value, _MODE.value, _CELL.value)
    if status:
        sys.exit(status)


def run() -> None:
    """The command, as `python launch.py` or `multimix-train`."""
    sys.modules["__main__"].__doc__ = __doc__  # what --help shows
    gc.set_threshold(100_000, 20, 50)  # tracing makes much, and little of it is garbage
    with ends_quietly():
        app.run(main, flags_parser=arguments.parse)


predict = functools.partial(predict_command.main, image_files)  # the command `multimix-predict`

if __name__ == "__main__":
    run()
