"""Tests of benchmarks.scaling."""

import functools
import os
import re
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np
import optax
import pytest

from benchmarks import scaling
from multimix_jax.training import parallel
from multimix_jax.training.step import make_train_step
from tests import tiny

PROGRAM = """
HloModule jit_step, entry_computation_layout={(f32[2,3]{1,0})->f32[2,3]{1,0}}
%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add.1 = f32[] add(%a, %b)
}
ENTRY %main (x: f32[2,3]) -> f32[2,3] {
  %all-reduce.1 = (f32[2,3]{1,0}, bf16[5]{0}, /*index=2*/f32[]) all-reduce(%x, %y, %z)
  %gte = f32[2,3]{1,0} get-tuple-element(%all-reduce.1), index=0
  %all-gather.1 = pred[8]{0} all-gather(%p), dimensions={0}
  %all-reduce-start.2 = f32[7]{0:T(8)} all-reduce-start(%v), to_apply=%sum
  %all-reduce-done.2 = f32[7]{0} all-reduce-done(%all-reduce-start.2)
  ROOT %collective-permute.1 = u8[2,0]{1,0} collective-permute(%w), metadata={op_name="a = b"}
}
"""


class Plan(NamedTuple):
    """What XLA makes of a step: its exchanges, the bytes that are due in them, and memory."""

    exchanges: list[scaling.Collective]
    averaged: int  # bytes
    memory: int  # bytes of a device


@functools.cache
def plan(devices, backend="pmap", system="multimix"):
    """Of a tiny network, compiled for one image of each stream on each device."""
    assert jax.device_count() >= devices
    objective, optimizer = tiny.objective(system), optax.adam(1e-3)
    step = make_train_step(objective, optimizer, axis_name=parallel.AXIS)
    sharded = parallel.shard_step(step, backend=backend, devices=jax.devices()[:devices])
    state = sharded.put_state(tiny.train_state(objective, optimizer))
    batch = sharded.put_batch(tiny.batch(devices))
    lowered = sharded.step.lower(state, batch)
    compiled = scaling.Step(lowered.compile(), state, batch)

    # An instance norm takes out the biases of the convolutions, so that they have no gradient.
    biases = re.compile(r"conv\d/bias$")
    name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    gradients = sum(leaf.size for path, leaf in leaves if not biases.search(name(path)))
    # The norms, and whether they are finite, are computed after the exchange.
    _, metrics = lowered.out_info
    averaged = gradients + len(set(metrics) - {"grad_norm", "param_norm", "skipped"})
    found = scaling.collectives(compiled.compiled.as_text())
    return Plan(found, 4 * averaged, compiled.memory)


def test_of_a_program_written_by_hand():
    want = [
        ("all-reduce", 4 * 6 + 2 * 5 + 4),
        ("all-gather", 8),
        ("all-reduce", 4 * 7),
        ("collective-permute", 0),
    ]
    assert scaling.collectives(PROGRAM) == want


def test_devices_exchange_gradients_and_metrics_alone():
    found = plan(4)
    assert found.exchanges == [("all-reduce", found.averaged)]


def of_256(*arguments):
    with mock.patch.dict(os.environ):  # in_fake_devices changes it
        many = scaling.in_fake_devices(plan, 256, 256, *arguments)
    few = plan(4, *arguments)
    assert many.exchanges == few.exchanges
    assert many.exchanges == [("all-reduce", many.averaged)]
    assert many.memory <= 1.01 * few.memory


def test_256_devices_meet_once_and_take_no_more_memory_each():
    of_256("pmap", "umtl")  # both tasks, but soon compiled


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pmap", "jit"])
def test_256_devices_of_the_full_system(backend):
    of_256(backend)


def test_of_a_power():
    sizes = np.asarray([2, 4, 16])
    assert scaling.exponent(sizes, 3 * sizes**1.7) == pytest.approx(1.7, abs=5e-8)
