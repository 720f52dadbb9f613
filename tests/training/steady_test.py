"""A long training holds no more at its end than it did on its way."""

import dataclasses
import logging
import time
from unittest import mock

import jax
import numpy as np
import pytest

from multimix_jax.training import machine
from multimix_jax.training.preemption import PreemptionGuard
from tests import process
from tests.small_runs import make_run, small_config

COMPILED = "/jax/core/compile/backend_compile_duration"
SAMPLES = 30
EARLY = 4  # a step before the first checkpoint
SPARE = 20  # arrays that garbage may hold; one lost at each step would soon be more
LONGEST = 60.0  # seconds that a checkpoint may be on its way


@dataclasses.dataclass
class Sample:
    """What the program holds after a step, between two checkpoints."""

    step: int
    memory: int  # bytes
    compiled: int  # programs so far
    threads: int
    files: int


@pytest.fixture
def compiled():
    """Grows by one with each program that is compiled."""
    times = []

    def note(event, seconds, **_):
        if event == COMPILED:
            times.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(note)
    logging.disable()  # pytest keeps every record, and with it the arrays that JAX 0.12 logs
    yield times
    logging.disable(logging.NOTSET)
    jax.monitoring.unregister_event_duration_listener(note)


def train(prepared, workdir, compiled, *, steps, checkpoint_every, system="multimix", leak=0):
    """Trains a small network through all that a run has; loses `leak` bytes a step."""
    machine.keep_compiled()
    config = small_config(
        prepared,
        system,
        steps=steps,
        eval_every=2 * checkpoint_every,
        checkpoint_every=checkpoint_every,
        ema_decay=0.9,
    )
    run = make_run(config, workdir)
    batches = run.data.batches
    samples, lost = [], []

    def watched(start, stop):
        if stop != steps:  # images are looked at before
            yield from batches(start, stop)
            return
        every = stop // SAMPLES
        for step, batch in enumerate(batches(start, stop), start):
            if step == EARLY:
                arrays = len(jax.live_arrays())
            # A state that was just saved keeps the shards it was written from until the next step.
            if step and step % every == 0 and step % checkpoint_every != 1:
                wait_for_checkpoints(arrays)
                samples.append(
                    Sample(
                        step=step,
                        memory=process.memory(),
                        compiled=len(compiled),
                        threads=process.threads(),
                        files=process.open_files(),
                    )
                )
            lost.append(np.ones(leak, np.uint8))
            yield batch

    with process.only_new_garbage(), PreemptionGuard(grace_period=60) as guard:
        with mock.patch.object(type(run.data), "batches", lambda _, *steps: watched(*steps)):
            run.train(guard)
    return samples


def wait_for_checkpoints(arrays):
    """Until no more than so many arrays are there: what is being written is held meanwhile."""
    end = time.monotonic() + LONGEST
    while len(jax.live_arrays()) > arrays + SPARE:
        assert time.monotonic() < end, f"{len(jax.live_arrays())} arrays are held, {arrays} before"
        time.sleep(0.05)


def check(samples):
    """Compares the last third of a training to the second."""
    print(*samples, sep="\n")  # shown where a test fails, or by pytest -s
    second, last = samples[SAMPLES // 3 : -SAMPLES // 3], samples[-SAMPLES // 3 :]
    least = lambda name, part: min(getattr(sample, name) for sample in part)
    steps = last[0].step - second[0].step
    grown = least("memory", last) - least("memory", second)
    print(f"memory grew by {grown / 1e3:.0f} kB in {steps} steps")
    assert last[-1].compiled == second[0].compiled
    assert least("threads", last) <= least("threads", second) + 2  # of a pool that is filling up
    assert least("files", last) <= least("files", second)
    # The allocators' own comes to a few megabytes. With each checkpoint tensorstore 0.1.86 loses
    # 100 kB, of the JSON that it gives to Python (`KvStore.Spec.to_json`).
    assert grown < 4e6 + 5e3 * steps, "memory grows"


@process.on_linux
def test_nothing_grows(prepared, tmp_path, compiled):
    # The long form trains the full system, which takes three times as long to compile.
    check(
        train(prepared, tmp_path / "run", compiled, steps=150, checkpoint_every=15, system="umtl")
    )


@process.on_linux
@pytest.mark.slow
def test_nothing_grows_for_long(prepared, tmp_path, compiled):
    check(train(prepared, tmp_path / "run", compiled, steps=2000, checkpoint_every=20))


@process.on_linux
@pytest.mark.slow
def test_a_leak_of_20_kb_a_step_is_noticed(prepared, tmp_path, compiled):
    samples = train(
        prepared, tmp_path / "run", compiled, steps=1000, checkpoint_every=20, leak=20_000
    )
    with pytest.raises(AssertionError, match="memory grows"):
        check(samples)
