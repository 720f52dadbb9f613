"""Tests of multimix_jax.stopping, each in a process of its own."""

import signal
import subprocess
import sys
import time

import pytest

from multimix_jax import stopping
from tests.small_runs import ROOT

PROGRAM = """
import sys, time
from multimix_jax import stopping

stopping.GRACE = 1.0
with stopping.Stopping() as stop:
    print("ready", flush=True)
    for step in range(400):
        {work}
        if {asked} and stop.requested():
            print("asked", flush=True)
            sys.exit(stopping.STATUS)
"""


def start(work, *, asked=True):
    program = PROGRAM.format(work=work, asked=asked)
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_loop_that_asks_ends_by_itself(number):
    process = start("time.sleep(0.05)")
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (stopping.STATUS, "asked\n"), errors


BUSY = "__import__('hashlib').pbkdf2_hmac('sha256', b'', b'', 60_000_000)"  # no bytecode for long


@pytest.mark.parametrize("work", ["time.sleep(30)", BUSY], ids=["waits", "computes"])
def test_a_program_that_does_not_ask_is_ended(work):
    process = start(work, asked=False)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == stopping.STATUS
    assert "the same command goes on" in errors
    assert 0.9 < time.monotonic() - begun < 10


def test_a_second_interrupt_ends_at_once():
    process = start("time.sleep(30)", asked=False)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGINT


def test_afterwards_signals_are_as_before():
    before = signal.getsignal(signal.SIGTERM)
    with stopping.Stopping() as stop:
        assert signal.getsignal(signal.SIGTERM) is not before
        assert not stop.requested()
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1
