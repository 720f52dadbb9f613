"""Tests of data_pipelines.anatomy."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from data_pipelines.anatomy import count_components, notes, of_body
from data_pipelines.errors import DataError
from multimix_jax.labels import VOID, LabelSpec
from tests.small_runs import listed


@pytest.mark.parametrize(
    ("masks", "classes", "pairs"),
    [
        (("heart", "left_lung", "right_lung"), (), (("left_lung", "right_lung"),)),
        (("lung-LEFT", "lung-RIGHT"), (), (("lung-LEFT", "lung-RIGHT"),)),
        (("lungRight", "lung left"), (), (("lung left", "lungRight"),)),
        (("left", "right"), ("Left", "None", "Right"), (("left", "right"), ("Left", "Right"))),
        (("heart", "bright", "cleft"), ("left_to_right",), ()),
        (("left_lung",), ("normal",), (("left_lung", ""),)),
        ((), ("normal", "effusion right"), (("effusion right", ""),)),
        ((), (), ()),
    ],
)
def test_names_of_left_and_right(masks, classes, pairs):
    plain = LabelSpec(classes, False, masks)
    labels = of_body(plain, "auto")
    assert labels == LabelSpec(classes, False, masks, mirrored=pairs)
    assert len(notes(labels)) == bool(pairs)
    assert labels.may_mirror == all(other for _, other in pairs)
    assert of_body(plain, "") == plain and plain.may_mirror


def test_named_pairs():
    plain = LabelSpec(("x", "y"), False, ("a", "b", "c", "d"))
    labels = of_body(plain, "a=c, x=y")
    assert (labels.mask_order, labels.class_order) == ((2, 1, 0, 3), (1, 0))
    assert LabelSpec.from_json(vars(labels)) == labels
    lone = of_body(plain, "x=")
    assert (lone.may_mirror, lone.mask_order, lone.class_order) == (False, (), ())
    assert "of x the data have one side alone" in notes(lone)[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("left=right", "'right' is no mask or class; write left=right, or left= for what"),
        ("left", "'left' is no pair"),
        ("left=heart,heart=left", "left has more than one mirror image among left, heart"),
    ],
)
def test_pairs_that_cannot_be(text, words):
    with pytest.raises(DataError, match=words):
        of_body(LabelSpec(mask_names=("left", "heart")), text)


def test_two_of_one_side():
    with pytest.raises(DataError, match="right lung has more than one mirror image"):
        of_body(LabelSpec(mask_names=("left_lung", "left lung", "right lung")), "auto")


def masks_of(*places, count=20):
    """Masks [count,16,16,1] of discs [count] at places, and examples that hold them."""
    y, x = np.mgrid[:16, :16]
    masks = np.zeros((count, 16, 16, 1), np.uint8)
    for rows, columns in places:
        for index, (row, column) in enumerate(
            np.broadcast_to(np.stack([rows, columns], -1), (count, 2))
        ):
            masks[index, (y - row) ** 2 + (x - column) ** 2 <= 9] = 1
    return masks


def examples_of(masks):
    pixels = SimpleNamespace(fetch=lambda places: {"mask": masks[places]})
    return dataclasses.replace(listed(len(masks)), pixels=pixels)


LUNGS = masks_of((8, 4), (8, 12))
PLACES = np.random.default_rng(0).integers(3, 13, (2, 20))


@pytest.mark.parametrize(
    ("masks", "count"),
    [
        (LUNGS, 2),
        (masks_of((8, 8)), 1),
        (masks_of((8, 4), (8, 12), count=4), 0),  # too few to tell
        (masks_of(PLACES), 0),  # a lesion in each, but anywhere
        (LUNGS * (np.arange(20) > 2)[:, None, None, None], 0),  # not in all
        (np.where(np.arange(20)[:, None, None, None] < 3, masks_of((8, 4)), LUNGS), 0),
        (np.where(np.arange(20)[:, None, None, None] < 1, masks_of((8, 4)), LUNGS), 2),
    ],
)
def test_components_of_organs(masks, count):
    assert count_components(examples_of(masks)) == (count,)


def test_specks_and_void_are_no_components():
    masks = np.concatenate([LUNGS, masks_of((8, 8))], -1)
    masks = masks.repeat(4, 1).repeat(4, 2)
    masks[:, 0, 0] = 1
    masks[:, 2, 2] = VOID
    assert count_components(examples_of(masks)) == (2, 1)
    labels = LabelSpec(mask_names=("lungs", "heart"), components=(2, 0))
    (line,) = notes(labels)
    assert "the largest parts are kept, 2 of lungs, as many" in line
