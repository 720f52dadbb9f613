"""Tests of data_pipelines.anatomy."""

import pytest

from data_pipelines.anatomy import notes, of_body
from data_pipelines.errors import DataError
from multimix_jax.labels import LabelSpec


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
