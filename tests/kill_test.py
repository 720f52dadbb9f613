"""Runs killed at random moments, over and over, against one that nothing disturbed."""

import json
import os
import random
import signal
import subprocess

import pytest

import launch
from tests.small_runs import (
    assert_same_runs,
    launch_flags,
    launch_main,
    prepare_phantoms,
    small_config,
    start_launch,
)

KILLS = 50
STEPS = 600  # so many that no start reaches the end by itself before it is killed
FIELDS = dict(
    steps=STEPS, log_every=1, eval_every=20, checkpoint_every=3, ema_decay=0.9, batch_size=4
)


@pytest.mark.slow
def test_fifty_kills_leave_no_trace(tmp_path):
    """Everything is, bit by bit, what it would have been: also where a checkpoint was being
    written, since every third step writes one."""
    prepared = tmp_path / "prepared"
    prepare_phantoms(prepared)
    config = small_config(prepared, **FIELDS)
    with start_launch(*launch_flags(config, tmp_path / "whole")) as process:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    rng = random.Random(0)
    kills = partial = 0
    path = tmp_path / "killed"
    while kills < KILLS:
        with start_launch(*launch_flags(config, path)) as process:
            try:
                process.communicate(timeout=rng.uniform(6, 20))
                break  # finished before it was to be killed
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                kills += 1
        partial += any(path.glob("checkpoints/*/*tmp*"))
    launch_main(config, path)
    print(f"{kills} kills, {partial} of them while a checkpoint was being written")
    assert kills >= 20 and partial > 0

    like = launch.make_run(config, path)._initial_state()
    assert_same_runs(path, tmp_path / "whole", like)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["split"] == "train"]
    assert steps == list(range(1, STEPS + 1))
    assert not [name for name in os.listdir(path) if name.endswith(".tmp")]
