"""Trains and evaluates a model.

    python launch.py --config=configs/quickstart.py --workdir=runs/quickstart

Started again with the same flags it goes on where it stopped, or prints the results of a finished
run. Any field of the config can be set: --config.steps=500.
"""

import functools
import hashlib
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax  # noqa: E402
import tensorflow as tf  # noqa: E402
from absl import app, flags  # noqa: E402
from ml_collections import config_flags  # noqa: E402

import data_pipelines  # noqa: E402
from data_pipelines import input_pipeline  # noqa: E402
from data_pipelines.run_data import open_run  # noqa: E402
from multimix_jax import optimizer, parallel, report, workdir  # noqa: E402
from multimix_jax.objectives import make_objective  # noqa: E402
from multimix_jax.run import Run  # noqa: E402

_CONFIG = config_flags.DEFINE_config_file("config", None, "File, with arguments behind a colon.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train and evaluate, or evaluate.")


def main(argv: list[str]) -> None:
    del argv
    c = _CONFIG.value
    tf.config.set_visible_devices([], "GPU")
    path = workdir.check(_WORKDIR.value, c.to_dict())
    parallel.check_divisible(c.batch_size, c.accumulate)
    terms = c.objective.to_dict()
    method = make_objective(terms.pop("name"), model=c.model, dtype=c.dtype, terms=terms)
    schedule = optimizer.make_schedule(
        learning_rate=c.learning_rate, steps=c.steps, **c.schedule
    )
    load = functools.partial(
        data_pipelines.load,
        data_dir=c.data_dir,
        prepared_dir=c.prepared_dir,
        size=c.size,
        cache_bytes=int(c.cache_gib * 2**30),
    )
    data = open_run(
        method.streams,
        load=load,
        seg_data=c.seg_data,
        cls_data=c.cls_data,
        test_data=c.test_data,
        seg_labels=c.seg_labels,
        cls_labels=c.cls_labels,
        seed=c.seed,
        split_seed=c.split_seed,
    )
