"""Small sets and short runs, for the tests of what runs are made of."""

import contextlib
import functools
import json
import logging
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from unittest import mock

import jax
import ml_collections
import numpy as np

import launch
from configs import common, multimix
from data_pipelines.examples import Examples
from data_pipelines.sets import phantom
from multimix_jax.commands import train
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Checkpoint
from multimix_jax.runs.run import Run
from multimix_jax.runs.spec import RunSpec
from multimix_jax.state import TrainState
from multimix_jax.training.checkpoint import Checkpoints

ROOT = pathlib.Path(launch.__file__).parent
Plans = Mapping[tuple[str, str], Mapping[str, int]]
SMALL_PLANS: Plans = {
    ("seg", "a"): dict(train=14, val=3, test=5),
    ("seg", "b"): dict(train=0, val=0, test=4),
    ("cls", "a"): dict(train=24, val=6, test=7),
    ("cls", "b"): dict(train=0, val=0, test=6),
}
NETWORK = (4, 8)


class ListedPixels:
    """Image n is grey n; its mask is its n upper rows."""

    size = 16

    def fetch(self, places: np.ndarray) -> dict[str, np.ndarray]:
        shape = (len(places), self.size, self.size, 1)
        grey = np.asarray(places, np.uint8)[:, None, None, None]
        rows = np.arange(self.size)[:, None, None] < grey
        return {"image": np.full(shape, grey), "mask": np.full(shape, rows).astype(np.uint8)}


def listed(
    count: int,
    *,
    split: Sequence[str] | str = "",
    labels: Sequence[int] | int = -1,
    has_mask: Sequence[bool] | bool = False,
) -> Examples:
    """`count` examples, each its own patient, of `ListedPixels`."""
    ids = [f"i{n:02d}" for n in range(count)]
    return Examples(
        name="listed",
        label_spec=LabelSpec(("well", "ill")),
        ids=ids,
        groups=np.array(ids),
        splits=np.broadcast_to(np.asarray(split), count),
        labels=np.broadcast_to(np.asarray(labels, np.int64), count),
        has_mask=np.broadcast_to(np.asarray(has_mask, bool), count),
        extents=np.full((count, 2), ListedPixels.size, np.int32),
        spacing=np.zeros((count, 2), np.float32),
        source_shapes=np.full((count, 2), ListedPixels.size, np.int32),
        affines=None,
        pixels=ListedPixels(),  # type: ignore[arg-type]
        places=np.arange(count),
    )


def prepare_phantoms(prepared_dir: pathlib.Path, counts: Plans = SMALL_PLANS) -> None:
    """Prepares the phantom sets with a few images each; launch.py finds them prepared."""
    plans = {key: phantom.PLANS[key]._replace(**few) for key, few in counts.items()}
    with mock.patch.object(phantom, "PLANS", plans):
        for task, hospital in plans:
            builder = phantom.Phantom(
                task=task, hospital=hospital, size=32, prepared_dir=str(prepared_dir)
            )
            builder.prepare()


def small_config(
    prepared_dir: pathlib.Path, system: str = "multimix", **fields: object
) -> ml_collections.ConfigDict:
    """A published system on phantoms, but tiny."""
    c = common.get_config()
    multimix.use_system(c, system)
    c.ema_decay = 0.95
    c.prepared_dir = str(prepared_dir)
    c.size, c.batch_size, c.eval_batch_size = 32, 4, 8
    c.steps, c.log_every, c.eval_every, c.checkpoint_every = 6, 1, 3, 2
    c.seg_labels, c.cls_labels = "5", "10"
    c.model.filters = NETWORK
    c.update_from_flattened_dict(fields)
    return c.lock()


def launch_main(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    mode: str = "train",
    cell: int | None = None,
) -> None:
    """What `python launch.py` does with these flags, in this process."""
    flags = {"_CONFIG": config, "_WORKDIR": str(workdir), "_MODE": mode, "_CELL": cell}
    flags |= {"_DISTRIBUTED": False, "_COORDINATOR": None, "_PROCESSES": None, "_PROCESS": None}
    with contextlib.ExitStack() as stack:
        for name, value in flags.items():
            stack.enter_context(mock.patch.object(launch, name, SimpleNamespace(value=value)))
        logger = logging.getLogger("data_pipelines")
        stack.callback(logger.setLevel, logger.level)
        launch.main(["launch.py"])


def make_run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> Run:
    """The run that launch.py makes of a config."""
    fields = config.to_dict()
    return train.make_run(fields, RunSpec.of_config(fields), workdir, launch.open_data)


def first_state(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> TrainState:
    """A state of the shape of a run's."""
    return make_run(config, workdir).programs.initial_state(config.seed)


def start_launch(*flags: str) -> subprocess.Popen:
    """`python launch.py` with these flags, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "launch.py", *flags],
        cwd=ROOT,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch_flags(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> list[str]:
    """The flags of `python launch.py` that give `config`, one of `small_config`."""
    names = (
        "prepared_dir size batch_size eval_batch_size steps log_every eval_every checkpoint_every "
        "seg_labels cls_labels ema_decay system model.filters model.use_classifier "
        "model.use_decoder model.use_bridge objective.pseudo_label_weight objective.kl_weight "
        "optimizer.name"
    ).split()
    value = lambda name: functools.reduce(getattr, name.split("."), config)
    overrides = [f"--config.{name}={value(name)}" for name in names]
    return ["--config=configs/common.py", f"--workdir={workdir}", *overrides]


def wait_for_lines(path: pathlib.Path, count: int, process: subprocess.Popen) -> None:
    """Returns as soon as a file has so many lines, or the process that writes them has ended."""
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if path.exists() and path.read_text().count("\n") >= count:
            break
        time.sleep(0.002)


def metrics_of(workdir: pathlib.Path) -> list[str]:
    """The lines of metrics.jsonl but for the seconds, which no run has again."""
    text = (workdir / "metrics.jsonl").read_text()
    return re.sub('"seconds": [0-9.]+, ', "", text).splitlines()


def assert_same_runs(ours: pathlib.Path, theirs: pathlib.Path, like: TrainState) -> None:
    """Bit by bit: weights, optimiser, random numbers, choice of the best, figures."""
    for which in (Checkpoint.BEST, Checkpoint.LAST):
        with Checkpoints(ours) as checkpoints:
            our_state, our_meta = checkpoints.restore(which, like)
        with Checkpoints(theirs) as checkpoints:
            their_state, their_meta = checkpoints.restore(which, like)
        jax.tree.map(np.testing.assert_array_equal, our_state, their_state)
        assert our_meta | {"seconds": 0} == their_meta | {"seconds": 0}
    assert metrics_of(ours) == metrics_of(theirs)
    for name in ("ids.json", "config.json", "per_image.csv"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    our_results, their_results = (
        json.loads((path / "results.json").read_text()) for path in (ours, theirs)
    )
    assert our_results | {"run": 0} == their_results | {"run": 0}
