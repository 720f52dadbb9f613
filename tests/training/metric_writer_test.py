"""Tests of multimix_jax.training.metric_writer."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from multimix_jax.training.metric_writer import MetricWriter


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def events(workdir):
    """All that TensorBoard would see: (step, value) by tag, in the order of writing."""
    found = {}
    for file in sorted((workdir / "tensorboard").iterdir()):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = Event.FromString(record)
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value))
    return found


def test_one_line_for_each_call(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.scalars(1, "train", {"loss": np.float32(0.5), "seg/dice": 1})
        writer.scalars(2, "validation", {"score": 0.1})
        writer.speed(2, 31.0)
    found = lines(tmp_path)
    assert all(line.pop("seconds") >= 0 for line in found)
    assert found == [
        {"step": 1, "split": "train", "loss": 0.5, "seg/dice": 1.0},
        {"step": 2, "split": "validation", "score": 0.1},
    ]


def test_a_line_is_on_disk_at_once(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.scalars(1, "train", {"loss": 0.5})
        assert len(lines(tmp_path)) == 1


def test_tensorboard_gets_the_same_and_the_speed(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.scalars(3, "train", {"loss": 0.5})
        writer.scalars(4, "train", {"loss": 0.25})
        writer.speed(4, 31.0)
    found = events(tmp_path)
    assert [(step, value.simple_value) for step, value in found["train/loss"]] == [
        (3, 0.5),
        (4, 0.25),
    ]
    ((step, speed),) = found["speed/images_per_second"]
    assert (step, speed.simple_value) == (4, 31.0)


def test_a_picture_arrives_as_it_is(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    with MetricWriter(tmp_path) as writer:
        writer.picture(2, "validation/a", picture)
    ((step, value),) = events(tmp_path)["validation/a"]
    assert step == 2
    with Image.open(io.BytesIO(value.image.encoded_image_string)) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)


@pytest.mark.parametrize("cut_off", ["", '{"step": 5, "split": "tr', '{"step": 3'])
def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path, cut_off):
    with MetricWriter(tmp_path) as writer:
        for step in range(1, 5):
            writer.scalars(step, "train", {"loss": step})
        writer.scalars(3, "validation", {"score": 1})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(cut_off)
    with MetricWriter(tmp_path, 3) as writer:
        writer.scalars(4, "train", {"loss": 40})
    found = [(line["step"], line["split"], line.get("loss")) for line in lines(tmp_path)]
    train = [(1, "train", 1), (2, "train", 2), (3, "train", 3)]
    assert found == [*train, (3, "validation", None), (4, "train", 40)]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_new_start_begins_with_an_empty_file(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.scalars(1, "train", {"loss": 1})
    with MetricWriter(tmp_path):
        pass
    assert lines(tmp_path) == []
