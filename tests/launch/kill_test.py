"""Runs killed at random moments, over and over, against one that nothing disturbed."""

import json
import os
import random
import signal
import time

import pytest

from tests.small_runs import (
    assert_same_runs,
    first_state,
    launch_flags,
    launch_main,
    small_config,
    start_launch,
    wait_for_lines,
)

KILLS = 50
STEPS = 600
FIELDS = dict(
    steps=STEPS, log_every=1, eval_every=20, checkpoint_every=3, ema_decay=0.9, batch_size=4
)


@pytest.mark.slow
def test_fifty_kills_leave_no_trace(prepared, tmp_path):
    """Everything is, bit by bit, what it would have been: also where a checkpoint was being
    written, since every third step writes one."""
    config = small_config(prepared, **FIELDS)
    whole = tmp_path / "whole"
    with start_launch(*launch_flags(config, whole)) as process:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    like = first_state(config, whole)
    rng = random.Random(0)
    kills = begun = partial = runs = 0
    path = tmp_path / "killed_0"
    while kills < KILLS:
        metrics = path / "metrics.jsonl"
        lines = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        with start_launch(*launch_flags(config, path)) as process:
            if rng.random() < 0.2:  # while it is loaded, compiled or restored
                time.sleep(rng.uniform(0, 8))
            else:
                wait_for_lines(metrics, lines + 1, process)
                time.sleep(rng.uniform(0, 1.5))
            process.send_signal(signal.SIGKILL)
            process.communicate()
        if process.returncode == -signal.SIGKILL:
            kills += 1
            begun += metrics.exists() and metrics.read_bytes().count(b"\n") > lines
            partial += any(path.glob("checkpoints/*/*tmp*"))
        else:  # it was quicker, and has finished
            assert_undisturbed(path, whole, like)
            runs += 1
            path = tmp_path / f"killed_{runs}"
    launch_main(config, path)
    assert_undisturbed(path, whole, like)
    print(
        f"{kills} kills, {begun} of them after new steps, {partial} while a checkpoint was being "
        f"written; {runs + 1} runs"
    )
    assert begun > KILLS / 2 and partial > 0


def assert_undisturbed(path, whole, like):
    assert_same_runs(path, whole, like)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["split"] == "train"]
    assert steps == list(range(1, STEPS + 1))
    assert not [name for name in os.listdir(path) if name.endswith(".tmp")]
