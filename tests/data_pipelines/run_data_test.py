"""Tests of data_pipelines.run_data."""

import dataclasses
import logging
from unittest import mock

import numpy as np
import pytest

from configs import common
from data_pipelines.errors import DataError
from data_pipelines.findings import Finding
from data_pipelines.run_data import open_run
from multimix_jax.labels import VOID, LabelSpec
from tests.official_formats import write_csv
from tests.small_runs import ListedPixels, listed

STREAMS = ("seg/labeled", "seg/unlabeled", "cls/labeled", "cls/unlabeled")
TEST_DATA = {"folder:seg": "test"}
SPLIT = ["train"] * 12 + ["val"] * 4 + ["test"] * 4
SETS = {
    # In training, 10 of 12 have a mask; in validation, the last 2 of 4.
    "folder:seg": listed(20, split=SPLIT, has_mask=[n not in (0, 1, 12, 13) for n in range(20)]),
    # In training, 9 of 12 have a label; in validation 3 of 4.
    "folder:cls": listed(20, split=SPLIT, labels=[-1 if n % 4 == 3 else n % 2 for n in range(20)]),
    "folder:both": listed(20, split=SPLIT, labels=[n % 2 for n in range(20)], has_mask=True),
    "folder:plain": listed(6, split="train"),
    "folder:unsplit": listed(20, labels=[n % 2 for n in range(20)]),
}


def run_data(
    stream_names=STREAMS,
    load=SETS.__getitem__,
    test_data=TEST_DATA,
    contents=lambda config: {},
    process=(0, 1),
    **fields,
):
    config = common.get_config().to_dict()
    config |= dict(seg_data="folder:seg", cls_data="folder:cls", seg_labels=5, cls_labels=4)
    with mock.patch.multiple(
        "data_pipelines", load=lambda name, **options: load(name), contents=contents
    ):
        return open_run(config | fields, stream_names, test_data=test_data, process=process)


def pool(data, name):
    return data.pools[name].places.tolist()


def test_every_stream_that_was_asked_for_and_no_other():
    assert tuple(run_data().pools) == STREAMS
    assert tuple(run_data(("cls/labeled",), test_data={}).pools) == ("cls/labeled",)
    (batch,) = run_data().batches(0, 1)
    assert {stream: tuple(fields) for stream, fields in batch.items()} == {
        "seg/labeled": ("image", "mask"),
        "seg/unlabeled": ("image",),
        "cls/labeled": ("image", "label"),
        "cls/unlabeled": ("image", "label"),
    }


def test_unlabelled_images_without_any_truth_have_no_label():
    """Else what is watched of the pseudo-labels would tell that none of them is right."""
    (batch,) = run_data(cls_labels="all").batches(0, 1)
    assert tuple(batch["cls/unlabeled"]) == ("image",)


def test_a_set_that_no_stream_needs_is_not_opened():
    opened = []
    run_data(("seg/labeled",), load=lambda name: opened.append(name) or SETS[name])
    assert opened == ["folder:seg"]


def test_a_training_says_how_many_warnings_the_audit_has(caplog):
    one = Finding("seg", "same image", "warning", ["1", "2"], "")
    found = [one, dataclasses.replace(one, ids=["1", "3"]), Finding("seg", "n", "note", (), "")]
    patients = dataclasses.replace(one, kind="columns not used", ids=(), detail="a")
    sets = {
        "folder:seg": dataclasses.replace(SETS["folder:seg"], findings=[*found, patients]),
        "folder:cls": dataclasses.replace(SETS["folder:cls"], findings=[]),
    }
    with caplog.at_level(logging.INFO):
        run_data(load=sets.__getitem__)
        run_data(load=sets.__getitem__, process=(1, 2))
    assert [record.getMessage() for record in caplog.records] == [
        "audit: folder:seg: 2 warnings (same image: 3; columns not used: a); "
        "multimix-audit --config=... lists them"
    ]


def test_own_files_are_digested_before_they_are_read():
    order = []
    note = lambda config: order.append("contents") or {}
    run_data(load=lambda name: order.append(name) or SETS[name], contents=note)
    assert order == ["contents", "folder:seg", "folder:cls"]


@pytest.mark.parametrize(("text", "pairs"), [("auto", (("left", "right"),)), ("", ())])
def test_names_of_left_and_right_are_pairs(text, pairs):
    def load(name):
        if name == "folder:cls":
            return SETS[name]
        return dataclasses.replace(SETS[name], label_spec=LabelSpec(mask_names=("right", "left")))

    spec = run_data(load=load, mirrored=text).label_spec
    assert (spec.class_names, spec.mask_names) == (("well", "ill"), ("right", "left"))
    assert spec.mirrored == pairs


@pytest.mark.parametrize(("budget", "count"), [(5, 5), ("5", 5), (10, 10), ("all", 10)])
def test_masks_up_to_the_budget(budget, count):
    data = run_data(seg_labels=budget)
    labeled = pool(data, "seg/labeled")
    assert len(labeled) == count
    assert set(labeled) <= set(range(2, 12))  # in training, with a mask
    assert pool(data, "seg/unlabeled") == sorted(set(range(12)) - set(labeled))


def test_what_the_labels_say_of_any_image():
    data = run_data(seg_labels=4, cls_labels=3)
    greys = np.array(pool(data, "seg/labeled"))  # image n has its n upper rows in its mask
    rows = (greys[:, None] > np.arange(16)).mean(axis=0)
    np.testing.assert_allclose(data.baseline["mask"][:, 5, 0], rows)
    ill = np.mean(SETS["folder:cls"].labels[pool(data, "cls/labeled")])
    np.testing.assert_allclose(data.baseline["classes"], [1 - ill, ill])
    assert set(run_data(("cls/labeled",), test_data={}).baseline) == {"classes"}


class VoidPixels(ListedPixels):
    """Row 5 is void in the masks of odd images, row 15 in all."""

    def fetch(self, places):
        pixels = super().fetch(places)
        pixels["mask"][places % 2 == 1, 5] = VOID
        pixels["mask"][:, 15] = VOID
        return pixels


def test_what_is_unknown_is_in_no_baseline():
    """Pixels that are void, and classes that are unknown of an image."""
    labels = np.array([[0, 1], [1, -1], [-1, -1], [1, 0]] * 5)
    spec = LabelSpec(("a", "b"), multi_label=True, void=True)
    some = dataclasses.replace(SETS["folder:both"], label_spec=spec, labels=labels)
    some = dataclasses.replace(some, pixels=VoidPixels())
    data = run_data(load=lambda name: some, seg_labels="all", cls_labels="all", test_data={})
    np.testing.assert_allclose(data.baseline["classes"], [2 / 3, 1 / 2])
    rows = data.baseline["mask"][:, 0, 0]
    np.testing.assert_allclose(rows[[4, 5, 6, 15]], [7 / 12, 3 / 6, 5 / 12, 0])
    assert data.label_spec == spec


def test_class_labels_up_to_the_budget():
    data = run_data(cls_labels="9")
    labeled = pool(data, "cls/labeled")
    assert sorted(labeled) == [n for n in range(12) if n % 4 != 3]
    assert pool(data, "cls/unlabeled") == [3, 7, 11]
    assert set(SETS["folder:cls"].labels[pool(run_data(cls_labels=2), "cls/labeled")]) == {0, 1}


def test_with_every_image_labelled_the_labelled_ones_serve_twice():
    data = run_data(seg_data="folder:both", test_data={}, seg_labels="all")
    assert sorted(pool(data, "seg/labeled")) == list(range(12))
    assert sorted(pool(data, "seg/unlabeled")) == list(range(12))


def test_small_budgets_lie_within_large_ones():
    chosen = [pool(run_data(cls_labels=budget), "cls/labeled") for budget in (2, 4, 7, "all")]
    for smaller, larger in zip(chosen, chosen[1:]):
        assert larger[: len(smaller)] == smaller


def test_the_seed_chooses_what_is_labelled_and_leaves_the_division():
    ours, theirs = run_data(), run_data(seed=1)
    assert pool(ours, "seg/labeled") != pool(theirs, "seg/labeled")
    assert ours.ids["validation"] == theirs.ids["validation"]


def test_the_split_seed_divides_what_has_no_official_split():
    options = dict(seg_data="folder:both", cls_data="folder:unsplit", test_data={})
    ours, again, theirs = (run_data(**options, split_seed=seed) for seed in (0, 0, 1))
    assert ours.ids == again.ids
    ids, other_ids = (data.ids["validation"]["cls/folder:unsplit"] for data in (ours, theirs))
    assert ids != other_ids
    used = [pool(ours, f"cls/{kind}") for kind in ("labeled", "unlabeled")]
    val = ours.validation["cls"].places
    assert len(set(used[0]) | set(used[1]) | set(val.tolist())) == 16  # a fifth is for the test


def test_validation_holds_what_can_be_measured():
    seg, cls = run_data().validation.values()
    assert (seg.name, seg.places.tolist()) == ("folder:seg", [14, 15])
    assert (cls.name, cls.places.tolist()) == ("folder:cls", [12, 13, 14])


def test_labels_mean_what_those_of_the_trained_sets_do():
    def load(name):
        spec = LabelSpec((f"not {name}", name), mask_names=(f"a {name}", f"b {name}"))
        return dataclasses.replace(SETS[name], label_spec=spec)

    classes, masks = ("not folder:cls", "folder:cls"), ("a folder:seg", "b folder:seg")
    assert run_data(load=load).label_spec == LabelSpec(classes, mask_names=masks)
    assert run_data(("seg/labeled",), load=load).label_spec == LabelSpec(mask_names=masks)
    of_classes = run_data(("cls/labeled",), load=load, test_data={})
    assert of_classes.label_spec == LabelSpec(classes)


def test_parts_to_test_on():
    test_data = {"folder:seg": "test", "folder:cls": "val", "folder:both": "train"}
    data = run_data(test_data=test_data | {"folder:unsplit": "all"})
    assert [test.name for test in data.tests] == [*test_data, "folder:unsplit"]
    places = [test.places.tolist() for test in data.tests]
    assert places == [[16, 17, 18, 19], [12, 13, 14, 15], list(range(12)), list(range(20))]


@pytest.mark.parametrize(
    ("streams", "test_data", "words"),
    [
        (
            STREAMS,
            {"folder:both": "test", "folder:plain": "all"},
            "none of its 6 images has a mask",
        ),
        # The set has masks, but this part of it none.
        (
            STREAMS,
            {"folder:seg": "val", "folder:bare": "test"},
            "folder:bare=test, but none of its",
        ),
        (
            ("cls/labeled",),
            TEST_DATA,
            "test_data=folder:seg=test has a label, so there would be no",
        ),
        (("seg/labeled",), {"folder:cls": "test"}, "test_data=folder:cls=test has a mask, so"),
    ],
)
def test_what_cannot_be_measured_is_not_tested_on(streams, test_data, words):
    bare = listed(20, split=SPLIT, has_mask=[n < 16 for n in range(20)])
    with pytest.raises(DataError, match=rf"{words}.*config\.test_data"):
        run_data(streams, test_data=test_data, load=(SETS | {"folder:bare": bare}).__getitem__)


def test_what_an_evaluation_set_tells_of_its_images():
    (test,) = run_data().tests
    assert test.ids == ["i16", "i17", "i18", "i19"]
    assert test.spacing.shape == (4, 2)
    np.testing.assert_array_equal(test.images(np.array([2, 0]))[:, 0, 0, 0], [18, 16])
    first, second = test.batches(3)
    np.testing.assert_array_equal(first["image"][:, 0, 0, 0], [16, 17, 18])
    np.testing.assert_array_equal(second["valid"], [True, False, False])


def test_ids_by_purpose():
    data = run_data()
    assert sorted(data.ids) == ["test", "train", "validation"]
    assert data.ids["train"]["seg/labeled"] == [f"i{n:02d}" for n in pool(data, "seg/labeled")]
    assert data.ids["validation"] == {
        "seg/folder:seg": ["i14", "i15"],
        "cls/folder:cls": ["i12", "i13", "i14"],
    }
    assert data.ids["test"] == {"folder:seg": ["i16", "i17", "i18", "i19"]}


def test_both_tasks_may_be_validated_on_one_set():
    labels = [n % 2 if n % 5 else -1 for n in range(20)]
    shared = listed(20, split=SPLIT, labels=labels, has_mask=[n != 12 for n in range(20)])
    data = run_data(load=lambda name: shared, cls_data="folder:seg")
    assert data.ids["validation"] == {
        "seg/folder:seg": ["i13", "i14", "i15"],
        "cls/folder:seg": ["i12", "i13", "i14"],
    }


def test_the_digest_is_that_of_the_pools():
    digest = run_data().digest
    assert run_data(test_data={}).digest == digest
    assert run_data(seed=1).digest != digest
    assert run_data(seg_labels=6).digest != digest
    fewer = {**SETS, "folder:seg": listed(20, split=["val", *SPLIT[1:]], has_mask=True)}
    assert run_data(load=fewer.__getitem__).digest != digest


@pytest.mark.parametrize("part", ["all", "train"])
@pytest.mark.parametrize("name", ["folder:seg", "folder:cls"])
def test_what_is_trained_on_is_not_tested_on(name, part):
    message = rf"test_data has {name}={part}, which includes images that .* use 'test'"
    with pytest.raises(DataError, match=message):
        run_data(test_data={name: part})


def test_a_set_trained_on_for_the_other_task_only_may_be_tested_on_whole():
    test_data = TEST_DATA | {"folder:cls": "all"}
    _, test = run_data(("seg/labeled",), test_data=test_data).tests
    assert len(test.ids) == 20


def test_unknown_part():
    with pytest.raises(DataError, match=r"folder:both=dev, which is no part .*'val', 'test'"):
        run_data(test_data={"folder:both": "dev"})


def test_empty_part():
    sets = {**SETS, "folder:plain": listed(1, split="test")}
    with pytest.raises(DataError, match=r"folder:plain=train, which holds no image: it has 0 im"):
        run_data(test_data={"folder:plain": "train"}, load=sets.__getitem__)


def test_a_table_of_train_and_val_keeps_its_training_images():
    """None of them becomes a test image; who wants a test is told what there is."""
    sets = {"folder:seg": listed(20, split=["train"] * 16 + ["val"] * 4, has_mask=True)}
    options = dict(stream_names=("seg/labeled",), load=sets.__getitem__, seg_labels="all")
    assert len(run_data(**options, test_data={}).pools["seg/labeled"]) == 16
    message = (
        r"16 images in train, 4 images in val, 0 images in test, .* '' for none \(config\.test"
    )
    with pytest.raises(DataError, match=message):
        run_data(**options)


def test_few_masks_and_rare_classes_lie_in_every_part():
    few = listed(100, labels=[int(n % 20 == 7) for n in range(100)], has_mask=np.arange(100) < 10)
    partly = np.full((100, 2), -1)
    partly[:4, 0], partly[4:50, 0], partly[:50, 1] = 1, 0, np.arange(50) % 2
    spec = LabelSpec(("a", "b"), multi_label=True)
    findings = dataclasses.replace(few, labels=partly, label_spec=spec)
    sets = {"folder:seg": few, "folder:cls": findings}
    options = dict(load=sets.__getitem__, test_data=dict.fromkeys(sets, "test"), cls_labels="all")
    for seed in range(5):
        data = run_data(**options, split_seed=seed)
        (seg, cls), tests = data.validation.values(), data.tests
        assert seg.has_mask.all() and tests[0].has_mask.any()
        for examples in (tests[0], data.pools["cls/labeled"], cls, tests[1]):
            answers = examples.labels.reshape(len(examples), -1)
            assert all({0, 1} <= set(column) for column in answers.T.tolist())


def test_a_list_to_exclude_of_other_sets_is_noticed(tmp_path, caplog):
    table = write_csv(
        tmp_path / "x.csv", ["Data set", "ID"], [("Folder:seg", "a"), ("folder:seg", 1)]
    )
    run_data(exclude=str(table))
    text = "config.exclude names examples of Folder:seg, but this run uses folder:seg, folder:cls"
    assert text in caplog.text


def test_what_the_labels_say_where_some_are_not_known():
    labels = np.array([[1, -1], [0, -1], [-1, -1], [1, 1]] * 5)
    spec = LabelSpec(("a", "b"), multi_label=True)
    partly = dataclasses.replace(listed(20, split=SPLIT), labels=labels, label_spec=spec)
    options = dict(load=lambda name: partly, test_data={}, cls_labels="all")
    data = run_data(("cls/labeled",), **options)
    np.testing.assert_allclose(data.baseline["classes"], [2 / 3, 1])


@pytest.mark.parametrize("budget", [11, "11"])
def test_more_masks_than_there_are(budget):
    message = r"seg_labels=11, but folder:seg has 10 training images with a mask; use a number up"
    with pytest.raises(DataError, match=message):
        run_data(seg_labels=budget)


def test_more_class_labels_than_there_are():
    message = r"cls_labels=500, but folder:cls has 9 .* use a number up to 9 or \"all\""
    with pytest.raises(DataError, match=message):
        run_data(cls_labels="500")


@pytest.mark.parametrize("budget", ["ten", "-3", 0])
def test_budget_that_is_no_number(budget):
    with pytest.raises(DataError, match=rf"seg_labels={budget!r} is not a number"):
        run_data(seg_labels=budget)


@pytest.mark.parametrize(("task", "what"), [("seg", "a mask"), ("cls", "a label")])
def test_nothing_to_validate_on(task, what):
    known = [n < 12 for n in range(20)]
    bare = listed(
        20, split=SPLIT, has_mask=known, labels=[n % 2 if n < 12 else -1 for n in range(20)]
    )
    message = (
        rf"folder:seg has no validation image with {what}: images with one are 12 of 12 in train, "
        rf"0 of 4 in val, 0 of 4 in test; .*config\.{task}_data"
    )
    with pytest.raises(DataError, match=message):
        run_data((f"{task}/labeled",), load=lambda name: bare, cls_data="folder:seg")
