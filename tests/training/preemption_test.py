"""Signals to this process, and to one of its own where it ends."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from multimix_jax.training import preemption
from tests.small_runs import ROOT

SIGNALS = [signal.SIGTERM, signal.SIGINT]
PATIENCE = 30  # seconds, far more than anything here takes

PROGRAM = """
import time
from multimix_jax.training import preemption

preemption.NOTHING_UNSAVED = 1.0
with preemption.PreemptionGuard(60):
    print("ready", flush=True)
    {work}
"""
BUSY = "__import__('hashlib').pbkdf2_hmac('sha256', b'', b'', 60_000_000)"  # no bytecode for long


@pytest.mark.parametrize("work", ["time.sleep(30)", BUSY], ids=["waits", "computes"])
def test_a_process_that_does_not_ask_is_ended(work):
    command = [sys.executable, "-c", PROGRAM.format(work=work)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == preemption.STATUS
    assert errors.splitlines() == [
        "SIGTERM: no step to save; ending within 1 s",
        "stopped; the same command goes on from the last checkpoint",
    ]


@pytest.fixture
def ended(monkeypatch):
    """Statuses that the process would have ended with, and an event that it would have."""
    statuses, event = set(), threading.Event()

    def end(status):
        statuses.add(status)
        event.set()

    monkeypatch.setattr(os, "_exit", end)
    return statuses, event


def raise_and_wait(number, capfd, words):
    """Sends this process a signal; returns what it says then, which has `words` in it."""
    signal.raise_signal(number)
    said, until = "", time.monotonic() + PATIENCE
    while words not in said and time.monotonic() < until:
        time.sleep(0.01)
        said += capfd.readouterr().err
    return said


@pytest.mark.parametrize("number", SIGNALS)
def test_a_loop_that_asks_ends_by_itself(ended, capfd, number):
    with preemption.PreemptionGuard(PATIENCE) as stop:
        stop.begin(0, lambda: 0)
        assert not stop.requested(1)
        raise_and_wait(number, capfd, "\n")
        assert stop.requested(2)
    assert ended[0] == set()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_slow_step_is_waited_for(ended, capfd, monkeypatch, number):
    """It takes longer than the process would live that has nothing to save."""
    monkeypatch.setattr(preemption, "NOTHING_UNSAVED", 0.1)
    with preemption.PreemptionGuard(PATIENCE) as stop:
        stop.begin(4, lambda: 4)
        assert not stop.requested(5)
        said = raise_and_wait(number, capfd, "\n")
        assert not ended[1].wait(0.5)  # the step
        assert stop.requested(6)
    assert ended[0] == set()
    words = "waiting for the step and its checkpoint, up to 30 s (config.grace_period)"
    assert said == f"{number.name}: {words}\n"


def test_what_is_lost_when_the_time_is_up_is_said(ended, capfd):
    with preemption.PreemptionGuard(0.3) as stop:
        stop.begin(3, lambda: 5)
        stop.requested(8)
        said = raise_and_wait(signal.SIGTERM, capfd, "stopped")
        assert ended[1].wait(PATIENCE)
    assert ended[0] == {preemption.STATUS}
    assert said.splitlines()[1] == (
        "stopped 0.3 s after SIGTERM, before a checkpoint was written: lost are the steps 6 to 8; "
        "the same command goes on from the last checkpoint"
    )


def test_once_all_is_saved_the_process_does_not_wait(ended, capfd, monkeypatch):
    """The signal comes in the last step; then nobody asks, since the test sets are evaluated."""
    monkeypatch.setattr(preemption, "NOTHING_UNSAVED", 0.1)
    saved = threading.Event()
    with preemption.PreemptionGuard(PATIENCE) as stop:
        stop.begin(0, lambda: 6 if saved.is_set() else 0)
        stop.requested(6)
        raise_and_wait(signal.SIGTERM, capfd, "waiting for the step")
        assert not ended[1].wait(0.5)
        saved.set()
        assert ended[1].wait(PATIENCE)
    assert ended[0] == {preemption.STATUS}


def test_a_second_interrupt_ends_at_once(ended, capfd):
    with preemption.PreemptionGuard(PATIENCE):
        raise_and_wait(signal.SIGINT, capfd, "\n")
        signal.raise_signal(signal.SIGINT)
        assert ended[1].wait(PATIENCE)
    assert ended[0] == {128 + signal.SIGINT}


def test_afterwards_signals_are_as_before():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.PreemptionGuard(PATIENCE) as stop:
        assert signal.getsignal(signal.SIGTERM) is not before
        assert not stop.requested(1)
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1
