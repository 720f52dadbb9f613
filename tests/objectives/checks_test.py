"""Tests of multimix_jax.objectives.checks, through the objectives."""

import jax
import numpy as np
import pytest

from multimix_jax.errors import UsageError
from multimix_jax.models import VNet
from multimix_jax.names import Stream
from multimix_jax.objectives import DtmlObjective
from tests import tiny


def changed(stream, **arrays):
    """A sound batch but for some arrays of a stream; None takes one out."""
    batch = tiny.batch()
    kept = {**batch[stream], **arrays}
    return batch | {stream: {name: array for name, array in kept.items() if array is not None}}


SOUND = tiny.batch()
IMAGES, MASKS = (SOUND[Stream.SEG_LABELED][name] for name in ("image", "mask"))
LABELS = SOUND[Stream.CLS_LABELED]["label"]

# Of which a compiled step knows no values.
VALUES = {
    "0..1": (
        changed(Stream.CLS_UNLABELED, image=IMAGES / 255),
        r'batch\["cls/unlabeled"\]\["image"\] holds values from 0 to .* \(float64\), but pixels '
        r"are 0 to 255; multiply by 255",
    ),
    "-1..1": (changed(Stream.SEG_LABELED, image=IMAGES / 127.5 - 1), r"holds values from -1 to"),
    "16 bits": (changed(Stream.SEG_LABELED, image=IMAGES * np.uint16(257)), r"x \* \(255 / x.max"),
    "mask of 0 and 255": (
        changed(Stream.SEG_LABELED, mask=MASKS * np.uint8(255)),
        r"holds 0, 255, but masks are 0 and 1; use mask > 127",
    ),
    "labels from 1": (
        changed(Stream.CLS_LABELED, label=LABELS + 1),
        r"holds 1 to 2, but labels are 0 to 1",
    ),
}
SHAPES = {
    "no stream": (
        {stream: arrays for stream, arrays in SOUND.items() if stream != Stream.SEG_UNLABELED},
        r'no batch\["seg/unlabeled"\]\["image"\], but this objective learns from seg/labeled, ',
    ),
    "no mask": (
        changed(Stream.SEG_LABELED, mask=None),
        r'no batch\["seg/labeled"\]\["mask"\].*add image and mask',
    ),
    "mask without channels": (
        changed(Stream.SEG_LABELED, mask=MASKS[..., 0]),
        r"is \[4, 16, 16\], but the masks are \[4, 16, 16, 1\]; add the axis .*mask\[\.\.\., None",
    ),
    "channels first": (
        changed(Stream.CLS_LABELED, image=IMAGES.transpose(0, 3, 1, 2)),
        r"is \[4, 1, 16, 16\], but the network takes \[B,H,W,1\]: the channels are the last axis",
    ),
    "one-hot": (
        changed(Stream.CLS_LABELED, label=np.eye(2, dtype=int)[LABELS]),
        r"is \[4, 2\], but labels are \[4\]; of one-hot labels use label\.argmax\(-1\), and multi",
    ),
}


@pytest.mark.parametrize("fault", [*VALUES, *SHAPES])
def test_a_batch_that_would_teach_something_else_is_refused(fault):
    batch, message = {**VALUES, **SHAPES}[fault]
    with pytest.raises(UsageError, match=message):
        tiny.objective().check_batch(batch)


@pytest.mark.parametrize("fault", SHAPES)
def test_shapes_are_looked_at_where_a_step_is_compiled(fault):
    batch, message = SHAPES[fault]
    objective = tiny.objective()
    state = tiny.train_state(objective)
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(objective, state.params, state, batch, tiny.keys())


def test_sound_batches_pass():
    objective = tiny.objective()
    objective.check_batch(SOUND)
    objective.check_batch(changed(Stream.SEG_LABELED, mask=MASKS.astype(bool)))
    objective.check_batch(changed(Stream.SEG_LABELED, image=np.zeros_like(IMAGES)))
    net = VNet(filters=4, convolutions=(1, 1), heads=("mask",))
    volumes = np.random.default_rng(0).normal(size=(2, 8, 8, 8, 1))
    batch = {Stream.SEG_LABELED: {"image": volumes, "mask": volumes > 1}}
    supervised = DtmlObjective(seg=net, sdf=None, patch=(8, 8, 8))
    supervised.check_batch(batch)  # whose intensities are of any range
    with pytest.raises(UsageError, match=r"takes \[B,D,H,W,1\]"):
        supervised.check_batch({Stream.SEG_LABELED: {"image": IMAGES, "mask": MASKS}})
