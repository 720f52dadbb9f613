"""Tests of runs over several processes, two of two fake devices each, on this machine."""

import contextlib
import json
import os
import signal
import socket

import jax
import numpy as np
import pytest

from multimix_jax.names import Checkpoint
from multimix_jax.training import preemption
from multimix_jax.training.checkpoint import Checkpoints
from tests.small_runs import (
    first_state,
    launch_flags,
    launch_main,
    small_config,
    start_launch,
    wait_for_lines,
)

STEPS = 24


def make_config(prepared, system):
    every = dict(log_every=1, eval_every=12, checkpoint_every=4)
    config = small_config(prepared, system, steps=STEPS, ema_decay=0.9, **every)
    # Adam divides by the size of a gradient: where that is near zero it makes steps of rounding.
    config.optimizer.name = "sgd"
    return config


@contextlib.contextmanager
def two_processes(monkeypatch, *flags):
    """`python launch.py` twice, as the processes of one run; both are gone afterwards."""
    devices = "--xla_force_host_platform_device_count"
    two = os.environ["XLA_FLAGS"].replace(f"{devices}=4", f"{devices}=2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = [f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2"]
    with contextlib.ExitStack() as stack:
        processes = []
        with monkeypatch.context() as only_for_them:
            only_for_them.setenv("XLA_FLAGS", two)
            for index in range(2):
                process = start_launch(*flags, *together, f"--process_id={index}")
                processes.append(stack.enter_context(process))
                stack.callback(process.kill)
        yield processes


# The full system takes three times as long to compile, by each process, and learns no otherwise.
@pytest.mark.parametrize("system", ["unet", pytest.param("multimix", marks=pytest.mark.slow)])
def test_stopped_bereft_and_gone_on_alone(prepared, tmp_path, monkeypatch, system):
    """Two processes stop together when one is asked to; when one dies the other ends; one process
    goes on from their checkpoint. All in all that is what one process does by itself."""
    config = make_config(prepared, system)
    workdir = tmp_path / "run"
    metrics = workdir / "metrics.jsonl"
    flags = launch_flags(config, workdir)
    with two_processes(monkeypatch, *flags, "--config.grace_period=500") as processes:
        wait_for_lines(metrics, 5, processes[0])
        processes[1].send_signal(signal.SIGTERM)
        errors = [process.communicate(timeout=500)[1] for process in processes]
    assert [process.returncode for process in processes] == [preemption.STATUS] * 2, errors
    (line,) = {line for text in errors for line in text.splitlines() if "stopped after" in line}
    stopped = int(line.split()[3])
    assert max(map(int, os.listdir(workdir / "checkpoints" / Checkpoint.LAST))) == stopped < STEPS
    lines = metrics.read_text().count("\n")

    with two_processes(monkeypatch, *flags) as processes:
        wait_for_lines(metrics, lines + 6, processes[0])
        processes[1].kill()
        # A minute is promised, on a machine that does nothing else.
        _, errors = processes[0].communicate(timeout=60 if system == "multimix" else 500)
    assert processes[0].returncode not in (0, preemption.STATUS), errors
    assert not (workdir / "results.json").exists()

    launch_main(config, workdir)
    whole = tmp_path / "whole"
    launch_main(config, whole)
    assert_nearly_the_same(workdir, whole, first_state(config, whole))


def assert_nearly_the_same(ours, theirs, like):
    """Sums over processes round otherwise than sums within one."""
    for which in (Checkpoint.BEST, Checkpoint.LAST):
        restored = []
        for path in (ours, theirs):
            with Checkpoints(path) as checkpoints:
                restored.append(checkpoints.restore(which, like))
        (our_state, our_meta), (their_state, their_meta) = restored
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            *((state.params, state.ema_params) for state in (our_state, their_state)),
        )
        assert our_meta["best_step"] == their_meta["best_step"]
    assert (ours / "ids.json").read_bytes() == (theirs / "ids.json").read_bytes()
    columns = [
        [(line["step"], line["split"]) for line in map(json.loads, lines.splitlines())]
        for lines in ((path / "metrics.jsonl").read_text() for path in (ours, theirs))
    ]
    assert columns[0] == columns[1]


def test_what_is_missing_is_named(prepared, tmp_path):
    flags = [*launch_flags(make_config(prepared, "unet"), tmp_path / "run"), "--num_processes=2"]
    with start_launch(*flags) as process:
        _, errors = process.communicate(timeout=500)
    assert process.returncode == 1
    assert errors.strip().splitlines()[-1].startswith("error: this process cannot join the others")
    assert "--coordinator_address=HOST:PORT" in errors
    assert not (tmp_path / "run").exists()
