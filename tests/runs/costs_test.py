"""Tests of multimix_jax.runs.costs."""

import re
from unittest import mock

import pytest

from multimix_jax.labels import LabelSpec
from multimix_jax.runs import costs
from multimix_jax.runs.programs import Programs
from multimix_jax.runs.spec import RunSpec
from multimix_jax.training import machine
from tests import tiny
from tests.small_runs import small_config


def test_time_and_memory_are_told_beforehand(tmp_path):
    """By arithmetic that is counted, and a rate that is measured."""
    config = small_config(tmp_path, "unet", size=tiny.SIDE, ema_decay=0.0)
    spec = RunSpec.of_config(config.to_dict())
    programs = Programs(spec.objective, spec.data.size, spec.training, spec.prediction, LabelSpec())
    batch = {"seg/labeled": tiny.batch()["seg/labeled"]}
    with (
        mock.patch.object(costs, "_matrix_rate", lambda: 1e9),
        mock.patch.object(machine, "memory_bytes", lambda: 2**30 // 8),
    ):
        line = costs.forecast(programs, batch, 50_000)
    found = re.fullmatch(
        r"50,000 steps take about (\d+) minutes on these \d+ cores \(0 GFLOP each, by the rate "
        r"measured just now\) and about (\d+\.\d) of 0 GiB of memory: set a .*",
        line,
    )
    # Two levels of two convolutions each way, the gradient to weights and to images.
    pixels = 4 * tiny.SIDE**2
    kernels = 9 * (1 * 4 + 4 * 4 + (4 * 8 + 8 * 8) / 4 + 12 * 4 + 4 * 4) + 4
    minutes = 50_000 * 3 * 2 * pixels * kernels / (0.39e9 * 60)
    assert found and 0.8 * minutes < int(found[1]) < 2 * minutes
    assert float(found[2]) > 0.3


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "1 minute"), (3300, "55 minutes"), (12_000, "3 h 20 min")]
)
def test_durations(seconds, text):
    assert costs._duration(seconds) == text
