"""Tests of multimix_jax.evaluation.evaluate."""

import dataclasses

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from multimix_jax.errors import UsageError
from multimix_jax.evaluation.calibration import Calibration
from multimix_jax.evaluation.evaluate import Predictions, measure, validation_score
from multimix_jax.names import Head, Task

NAMES = ("well", "ill")


def box(rows, columns, size=16):
    mask = np.zeros((size, size, 1), bool)
    mask[rows, columns] = True
    return mask


def segmented(**changes):
    """Three images: 4 of 6 columns found, nothing found, truth unknown."""
    truth = box(slice(4, 12), slice(4, 10))
    found = Predictions(
        ids=["a", "b", "c"],
        masks={Head.MASK: np.stack([box(slice(4, 12), slice(4, 8)), 0 * truth > 0, truth])},
        truths=np.stack([truth, truth, truth]),
        has_mask=np.array([True, True, False]),
        classes=None,
        labels=np.full(3, -1),
        spacing=np.zeros((3, 2), np.float32),
    )
    return dataclasses.replace(found, **changes)


def classified(labels, ill, **changes):
    count = len(labels)
    found = Predictions(
        ids=[f"i{n}" for n in range(count)],
        masks={},
        truths=np.zeros((count, 16, 16, 1), bool),
        has_mask=np.zeros(count, bool),
        classes=np.stack([1 - np.asarray(ill), ill], axis=-1),
        labels=np.asarray(labels),
        spacing=np.zeros((count, 2), np.float32),
    )
    return dataclasses.replace(found, **changes)


LABELS = [0, 1, 1, 0, 1, -1, 0, 1]
ILL = [0.1, 0.9, 0.4, 0.6, 0.8, 0.99, 0.3, 0.7]
KNOWN = np.array(LABELS) >= 0


def test_masks():
    summary, rows = measure(segmented(), class_names=NAMES)
    # 8x4 pixels found of 8x6: Dice 64 / (32 + 48), Jaccard 32 / 48; then nothing found.
    assert [row.get("dice") for row in rows] == [pytest.approx(0.8), 0.0, None]
    assert summary["dice"]["mean"] == pytest.approx(0.4)
    assert summary["dice"]["std"] == pytest.approx(0.4)
    assert summary["dice"]["n"] == 2
    low, high = summary["dice"]["ci95"]
    assert 0 <= low < 0.4 < high <= 0.8
    assert summary["jaccard"]["mean"] == pytest.approx(1 / 3)
    assert summary["precision"]["mean"] == pytest.approx(0.5)
    assert summary["recall"]["mean"] == pytest.approx(1 / 3)
    assert rows[0]["hd"] == pytest.approx(2)
    assert rows[1]["hd"] == pytest.approx(np.hypot(16, 16))
    assert not any(name.endswith("_mm") for name in summary)
    assert rows[2] == {"id": "c"}
    assert "accuracy" not in summary


def test_a_known_spacing_gives_millimetres():
    spacing = np.array([[5.0, 0.5], [0, 0], [1, 1]], np.float32)
    summary, rows = measure(segmented(spacing=spacing), class_names=NAMES)
    assert rows[0]["hd_mm"] == pytest.approx(2 * 0.5)  # two columns
    assert "hd_mm" not in rows[1]
    assert (summary["hd_mm"]["n"], summary["hd"]["n"]) == (1, 2)


def test_several_mask_channels_are_averaged():
    one = segmented()
    two = segmented(
        masks={Head.MASK: np.concatenate([one.masks[Head.MASK], one.truths], axis=-1)},
        truths=np.concatenate([one.truths, one.truths], axis=-1),
    )
    _, rows = measure(two, class_names=NAMES)
    assert rows[0]["dice"] == pytest.approx((0.8 + 1) / 2)
    assert (rows[0]["dice_0"], rows[0]["dice_1"]) == (pytest.approx(0.8), 1)
    named = dataclasses.replace(two, mask_names=("lung", "heart"))
    assert measure(named, class_names=NAMES)[1][0]["dice_heart"] == 1


def test_void_pixels_count_neither_as_right_nor_as_wrong():
    """Two columns more than the truth are found: of them one is void, and so is one of the truth's,
    and a far corner."""
    found = box(slice(4, 12), slice(4, 12))
    found[15, 15] = True
    voids = box(slice(0, 16), slice(11, 16)) | box(slice(0, 16), slice(0, 5))
    truth = box(slice(4, 12), slice(5, 10))
    one = segmented(
        ids=["a"],
        masks={Head.MASK: found[None]},
        truths=truth[None],
        has_mask=np.array([True]),
        labels=np.array([-1]),
        spacing=np.zeros((1, 2)),
        voids=voids[None],
    )
    _, (row,) = measure(one, class_names=NAMES)
    assert row["dice"] == pytest.approx(2 * 5 / (5 + 6))
    assert (row["recall"], row["precision"]) == (1, pytest.approx(5 / 6))
    assert row["hd"] == 1
    cut = dataclasses.replace(one, masks={Head.MASK: (found & ~voids)[None]}, voids=None)
    assert measure(cut, class_names=NAMES)[1] == [row]


def test_empty_truths_are_counted_apart():
    """Lesions, of which most images have none: of 3 with and 2 without, one each is right."""
    lesion, other, nothing = box(2, 2), box(9, 9), box(0, 0) & False
    truths = np.stack([lesion, lesion, lesion, nothing, nothing])
    masks = np.stack([lesion, nothing, other, nothing, other])
    many = segmented(
        ids=list("abcde"),
        masks={Head.MASK: masks},
        truths=truths,
        has_mask=np.ones(5, bool),
        labels=np.full(5, -1),
        spacing=np.zeros((5, 2)),
    )
    summary, rows = measure(many, class_names=())
    figures = {name: (summary[name]["mean"], summary[name]["n"]) for name in summary}
    assert figures["dice"] == (pytest.approx(2 / 5), 5)
    assert figures["dice_present"] == (pytest.approx(1 / 3), 3)
    assert figures["dice_absent"] == (pytest.approx(1 / 2), 2)
    assert [row.get("dice_absent") for row in rows] == [None] * 3 + [1, 0]
    assert validation_score([summary]) == pytest.approx(2 / 5)
    full = dataclasses.replace(many, has_mask=np.arange(5) < 3)
    assert not {"dice_present", "dice_absent"} & set(measure(full, class_names=())[0])

    # Of two channels, the second the other way round.
    both = lambda arrays, turned: np.concatenate([arrays, turned[::-1]], axis=-1)
    two = dataclasses.replace(
        many,
        truths=both(truths, truths),
        masks={Head.MASK: both(masks, masks)},
        mask_names=("spot", "leaf"),
    )
    summary, rows = measure(two, class_names=())
    figures = {name: (summary[name]["mean"], summary[name]["n"]) for name in summary}
    assert figures["dice_present_spot"] == figures["dice_present_leaf"] == (pytest.approx(1 / 3), 3)
    assert figures["dice_absent_leaf"] == (pytest.approx(1 / 2), 2)
    assert rows[0] | {"dice": 0.5, "dice_present": 1, "dice_absent": 0} == rows[0]


def test_every_mask_has_its_metrics():
    one = segmented()
    summary, rows = measure(
        segmented(masks={**one.masks, Head.MASK_SDF: one.truths}), class_names=NAMES
    )
    assert rows[0]["dice"] == pytest.approx(0.8)
    assert rows[0]["sdf/dice"] == 1
    assert summary["sdf/dice"]["mean"] == 1
    assert validation_score([summary]) == pytest.approx(0.4)


def test_classes():
    summary, rows = measure(classified(LABELS, ILL), class_names=NAMES)
    labels, ill = np.array(LABELS)[KNOWN], np.array(ILL)[KNOWN]
    guess = ill >= 0.5
    for name, value in {
        "accuracy": sklearn_metrics.accuracy_score(labels, guess),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, guess),
        "f1_well": sklearn_metrics.f1_score(labels, guess, pos_label=0),
        "f1_ill": sklearn_metrics.f1_score(labels, guess),
        "auroc": sklearn_metrics.roc_auc_score(labels, ill),
        "average_precision_ill": sklearn_metrics.average_precision_score(labels, ill),
        "average_precision_well": sklearn_metrics.average_precision_score(1 - labels, 1 - ill),
    }.items():
        assert summary[name]["mean"] == pytest.approx(value), name
        assert summary[name]["n"] == 7
        assert "std" not in summary[name]
        low, high = summary[name]["ci95"]
        assert 0 <= low <= value <= high <= 1
    assert rows[1] == {
        "id": "i1",
        "label": 1,
        "probability_well": pytest.approx(0.1),
        "probability_ill": pytest.approx(0.9),
    }
    assert rows[5] == {"id": "i5"}  # its label is unknown
    assert "dice" not in summary


def test_classes_of_which_some_are_unknown():
    labels = [[0, 1, -1], [-1, 0, -1], [-1, -1, -1], [1, -1, -1], [1, 1, -1]]
    p = np.array([[0.9, 0.8, 0.5], [0.2, 0.1, 0.5], [0.4, 0.4, 0.4], [0.3, 0.7, 0.1], [1, 0.3, 0]])
    some = dataclasses.replace(classified(labels, np.zeros(5)), classes=p)
    assert some.has_label.tolist() == [True, True, False, True, True]
    summary, rows = measure(some, class_names=("a", "b", "c"))
    assert summary["accuracy"]["mean"] == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert (summary["accuracy"]["n"], summary["auroc_a"]["n"], summary["f1_b"]["n"]) == (4, 3, 3)
    assert summary["auroc_a"]["mean"] == pytest.approx(1 / 2)
    assert not {"auroc_c", "f1_c", "average_precision_c"} & set(summary)
    said = {"probability_a": 0.9, "probability_b": 0.8, "probability_c": 0.5}
    assert rows[0] == {"id": "i0", "label_a": 0, "label_b": 1} | said
    assert rows[2] == {"id": "i2"}


def test_what_was_chosen_on_validation():
    found = classified(LABELS, ILL)
    calibration = Calibration(temperature=2.0, threshold=1 / (1 + (0.65 / 0.35) ** 0.5))
    summary, _ = measure(found, class_names=NAMES, calibration=calibration)
    # At .35 before calibration the image at .4 is right, and the one at .6 stays wrong.
    assert summary["accuracy_at_validation_threshold"]["mean"] == pytest.approx(6 / 7)
    assert summary["accuracy"]["mean"] == pytest.approx(5 / 7)
    assert len(summary["accuracy_at_validation_threshold"]["ci95"]) == 2
    cooled = classified(LABELS, [1 / (1 + ((1 - p) / p) ** 0.5) for p in ILL])
    wanted = measure(cooled, class_names=NAMES)[0]["ece"]
    assert summary["ece_calibrated"]["mean"] == pytest.approx(wanted["mean"], abs=1e-6)
    assert summary["ece"]["mean"] != pytest.approx(wanted["mean"], abs=1e-3)
    assert not {"accuracy_at_validation_threshold", "ece_calibrated"} & set(
        measure(found, class_names=NAMES)[0]
    )


def test_intervals_may_be_left_out():
    with_them, _ = measure(classified(LABELS, ILL), class_names=NAMES)
    without, _ = measure(classified(LABELS, ILL), class_names=NAMES, intervals=False)
    assert {k: v["mean"] for k, v in without.items()} == {
        k: v["mean"] for k, v in with_them.items()
    }
    assert all("ci95" not in entry for entry in without.values())


def test_masks_and_classes_of_the_same_images():
    classes = np.array([[0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
    summary, rows = measure(
        segmented(classes=classes, labels=np.array([1, 0, 0])), class_names=NAMES
    )
    assert summary["dice"]["n"] == 2
    assert summary["accuracy"]["mean"] == pytest.approx(2 / 3)
    assert {"dice", "probability_ill"} <= set(rows[0])
    assert "dice" not in rows[2]
    assert rows[2]["label"] == 0


def test_nothing_known_nothing_measured():
    summary, rows = measure(segmented(has_mask=np.zeros(3, bool)), class_names=NAMES)
    assert summary == {}
    assert rows == [{"id": "a"}, {"id": "b"}, {"id": "c"}]
    assert measure(classified([-1, -1], [0.1, 0.9]), class_names=NAMES)[0] == {}


def test_one_class_alone_has_no_auroc():
    summary, _ = measure(classified([1, 1, 1], [0.9, 0.2, 0.8]), class_names=NAMES)
    assert summary["accuracy"]["mean"] == pytest.approx(2 / 3)
    assert not {"auroc", "average_precision"} & set(summary)


def test_one_set_for_both_tasks_gives_each_its_own_figures():
    """Whatever a set knows of the other task, the score is of one figure of each."""
    classes = np.array([[0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
    both = segmented(classes=classes, labels=np.array([1, 0, 0]))
    masks, labels = (measure(both.of_task(task), class_names=NAMES)[0] for task in Task)
    assert "dice" in masks and "auroc" in labels and not set(masks) & set(labels)
    assert validation_score([masks, labels]) == pytest.approx((0.4 + 1) / 2)


def test_the_score_is_the_mean_of_dice_and_auroc():
    dice = {"dice": {"mean": 0.9}, "hd": {"mean": 3.0}}
    auroc = {"auroc": {"mean": 0.7}, "accuracy": {"mean": 0.2}}
    assert validation_score([dice, auroc]) == pytest.approx(0.8)
    assert validation_score([dice]) == pytest.approx(0.9)
    assert validation_score([dice | auroc]) == pytest.approx(0.8)


def test_accuracy_stands_in_for_the_auroc_of_one_class():
    summary, _ = measure(classified([1, 1, 1, 1], [0.9, 0.2, 0.8, 0.7]), class_names=NAMES)
    assert validation_score([summary]) == pytest.approx(0.75)


@pytest.mark.parametrize("summaries", [[], [{}, {}]])
def test_nothing_to_choose_the_checkpoint_by(summaries):
    with pytest.raises(
        UsageError, match=r"no validation set .*config\.seg_data and config\.cls_da"
    ):
        validation_score(summaries)
