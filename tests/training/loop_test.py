"""Tests of multimix_jax.training.loop."""

import json
import re

import optax
import pytest

from multimix_jax.names import Checkpoint
from multimix_jax.training import loop, parallel
from multimix_jax.training.preemption import PreemptionGuard
from multimix_jax.training.step import make_train_step
from tests import tiny


class Data:
    """The same batch at each step."""

    images_per_step, digest = 8, "same"

    def batches(self, start, stop):
        for _ in range(start, stop):
            yield tiny.LINEAR_BATCH


def train(workdir, steps):
    optimizer = optax.sgd(0.1)
    step = make_train_step(tiny.linear_loss, optimizer, axis_name=parallel.AXIS)
    sharded = parallel.shard_step(step, backend="jit")
    loop.train(
        workdir,
        lambda: sharded.put_state(tiny.linear_state(optimizer)),
        sharded,
        Data(),
        steps=steps,
        cadence=loop.Cadence(log_every=2, eval_every=4, checkpoint_every=4, max_skipped=1),
        validate=lambda *_: (0.5, {"score": 0.5}),
        guard=PreemptionGuard(1.0),
    )


@pytest.mark.parametrize("every", [0, 1000])
def test_a_log_file_tells_of_the_first_step_and_then_now_and_then(
    tmp_path, capsys, monkeypatch, every
):
    monkeypatch.setattr(loop, "TELL_EVERY", every)
    train(tmp_path, 8)
    lines = [line for line in capsys.readouterr().out.splitlines() if "validation" not in line]
    assert re.fullmatch(r"step 1 of 8: loss \d\.\d{3}", lines[0])
    assert [int(line.split()[1]) for line in lines] == ([*range(1, 9)] if every == 0 else [1])
    for line in lines[1:]:
        assert re.fullmatch(r"step \d of 8: loss \d\.\d{3}, \d+ images/s, 0:00:0\d left", line)


def test_lines_have_the_seconds_of_training_over_all_starts(tmp_path):
    train(tmp_path, 4)
    file = tmp_path / "checkpoints" / Checkpoint.LAST / "4" / "meta.json"
    saved = json.loads(file.read_text())["seconds"]
    train(tmp_path, 8)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["split"]) for line in lines] == [
        *[(2, "train"), (4, "train"), (4, "validation")],
        *[(6, "train"), (8, "train"), (8, "validation")],
    ]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert seconds[3] >= round(saved, 2)
