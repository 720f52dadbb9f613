"""Splits and label budgets, on lists of ids named as the official ones."""

import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.splits import SIZES, choose_labeled, split_examples
from multimix_jax.names import Task

SEEDS = range(5)


def _jsrt():
    ids = [f"JPCLN{i:03d}" for i in range(1, 155)] + [f"JPCNN{i:03d}" for i in range(1, 94)]
    return ids, ids, ["train" if int(i[-3:]) % 2 else "test" for i in ids]


def _mcu():
    ids = [f"MCUCXR_{i:04d}_{int(i > 80)}" for i in range(1, 139)]
    return ids, ids, [""] * len(ids)


def _chex():
    """5,216 / 16 / 624 images; three of a patient, who is in train and test now and then."""
    ids, groups, official = [], [], []
    for split, count in (("train", 5216), ("val", 16), ("test", 624)):
        for i in range(count):
            ids.append(f"{split}/PNEUMONIA/person{i // 3}_bacteria_{i}")
            groups.append(f"person{i // 3 + (1700 if split == 'val' else 0)}")
            official.append(split)
    return ids, groups, official


def _patients(rng, count=200):
    groups = [f"patient{g}" for g in rng.integers(0, count // 3, count)]
    return [f"image{i:03d}" for i in range(count)], groups, [""] * count


def _names(ids, split):
    return {key: [ids[i] for i in indices] for key, indices in split.items()}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "name, examples, counts", [("jsrt", _jsrt(), (111, 13, 123)), ("mcu", _mcu(), (93, 10, 35))]
)
def test_published_counts(name, examples, counts, seed):
    split = split_examples(*examples, **SIZES[name], seed=seed)
    assert tuple(len(split[key]) for key in ("train", "val", "test")) == counts
    everyone = np.concatenate(list(split.values()))
    np.testing.assert_array_equal(np.sort(everyone), np.arange(len(examples[0])))


def test_jsrt_tests_on_the_even_numbers():
    ids, groups, official = _jsrt()
    split = split_examples(ids, groups, official, **SIZES["jsrt"], seed=0)
    assert {int(ids[i][-1]) % 2 for i in split["test"]} == {0}


@pytest.mark.parametrize("seed", SEEDS)
def test_chex_fills_up_the_official_validation_set_by_patient(seed):
    ids, groups, official = _chex()
    split = split_examples(ids, groups, official, **SIZES["chex"], seed=seed)
    assert [ids[i] for i in sorted(split["test"])] == ids[-624:]
    assert set(range(5216, 5232)) <= set(split["val"].tolist())
    assert 523 <= len(split["val"]) <= 525  # a tenth of 5,232 and at most the rest of a patient
    assert not {groups[i] for i in split["train"]} & {groups[i] for i in split["val"]}


def test_training_images_of_a_validation_patient_move_to_validation():
    split = split_examples(
        ["a1", "a2", "b1", "c1"],
        ["a", "a", "b", "c"],
        ["train", "val", "train", "test"],
        val=0.1,
        test=0.2,
        seed=0,
    )
    assert {key: value.tolist() for key, value in split.items()} == {
        "train": [2],
        "val": [0, 1],
        "test": [3],
    }


def test_images_without_a_split_follow_their_patient_into_test():
    ids = ["a1", "a2", "b1", "c1"]
    split = split_examples(
        ids, ["a", "a", "b", "c"], ["test", "", "train", "val"], val=1, test=1, seed=0
    )
    assert _names(ids, split) == {"train": ["b1"], "val": ["c1"], "test": ["a1", "a2"]}


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_stay_together_and_sizes_are_reached(seed):
    ids, groups, official = _patients(np.random.default_rng(seed))
    split = split_examples(ids, groups, official, val=0.1, test=0.2, seed=seed)
    members = {key: {groups[i] for i in indices} for key, indices in split.items()}
    assert not members["train"] & members["val"]
    assert not members["train"] & members["test"]
    assert not members["val"] & members["test"]
    largest = np.unique(groups, return_counts=True)[1].max()
    assert 40 <= len(split["test"]) < 40 + largest
    wanted = round(0.1 * (200 - len(split["test"])))
    assert wanted <= len(split["val"]) < wanted + largest


@pytest.mark.parametrize("seed", SEEDS)
def test_order_of_the_input_does_not_matter(seed):
    ids, groups, official = _patients(np.random.default_rng(seed))
    order = np.random.default_rng(seed + 100).permutation(len(ids))
    straight = split_examples(ids, groups, official, val=20, test=30, seed=seed)
    mixed = split_examples(
        np.array(ids)[order], np.array(groups)[order], official, val=20, test=30, seed=seed
    )
    assert _names(ids, straight) == _names(np.array(ids)[order].tolist(), mixed)


def test_seeds_differ():
    ids, groups, official = _mcu()
    first, second = (
        split_examples(ids, groups, official, val=10, test=35, seed=seed) for seed in (0, 1)
    )
    assert set(first["test"].tolist()) != set(second["test"].tolist())


def test_one_more_image_moves_at_most_one_other():
    ids, groups, official = _mcu()
    before = split_examples(ids, groups, official, val=10, test=35, seed=0)
    more = [*ids, "MCUCXR_0999_0"]
    after = split_examples(more, more, [*official, ""], val=10, test=35, seed=0)
    for key in ("val", "test"):
        changed = set(_names(ids, before)[key]) ^ set(_names(more, after)[key])
        assert len(changed) <= 2


@pytest.mark.parametrize("per_patient", [1, 3])
@pytest.mark.parametrize(("count", "known", "without"), [(100, 10, 0), (400, 5, 0), (60, 2, 51)])
def test_what_is_rare_lies_in_every_part(count, known, without, per_patient):
    """By the ids alone, 4 of 10 seeds had none of 10 masks in validation."""
    lacking = dict.fromkeys(("train", "val", "test"), 0)
    ids, patients = [f"i{n:03d}" for n in range(count)], np.arange(count) // per_patient
    groups = [f"p{patient}" for patient in patients]
    for seed in range(51):
        drawn = np.random.default_rng(seed).permutation(patients[-1] + 1)[:known]
        traits = np.isin(patients, drawn)[:, None]
        split = split_examples(ids, groups, [""] * count, seed=seed, traits=traits)
        for key, indices in split.items():
            lacking[key] += not traits[indices].any()
    assert lacking == {"train": 0, "val": 0, "test": without}


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_frequent_leaves_the_split_as_it_was(seed):
    ids, groups, official = _patients(np.random.default_rng(seed))
    traits = np.random.default_rng(seed).random((200, 2)) < 0.5
    plain, with_traits = (
        split_examples(ids, groups, official, seed=seed, traits=chosen) for chosen in (None, traits)
    )
    assert _names(ids, plain) == _names(ids, with_traits)


def test_one_more_image_leaves_the_rare_ones_where_they_are():
    ids = [f"i{n:03d}" for n in range(100)]
    traits = (np.arange(100) % 11 == 0)[:, None]
    before = split_examples(ids, ids, [""] * 100, seed=0, traits=traits)
    more, longer = [*ids, "more"], np.append(traits, [[False]], axis=0)
    after = split_examples(more, more, [""] * 101, seed=0, traits=longer)
    for key in ("val", "test"):
        first, second = set(_names(ids, before)[key]), set(_names(more, after)[key])
        assert len(first ^ second) <= 2
        assert not traits[[ids.index(name) for name in (first ^ second) - {"more"}]].any()


@pytest.mark.parametrize(
    ("official", "tested"),
    [
        (["train", "train", "train", "val"], ""),
        (["train", "train", "", "val"], ""),  # the third is of the first one's patient
        (["train", "", "", "", ""], "bde"),
    ],
)
def test_official_training_images_are_not_taken_for_a_test(official, tested):
    ids, groups = list("abcde")[: len(official)], list("xyxzz")[: len(official)]
    for seed in SEEDS:
        split = _names(ids, split_examples(ids, groups, official, seed=seed, test=1, val=1))
        assert set(split["test"]) <= set(tested)
        assert bool(split["test"]) == bool(tested)
        assert split["val"] == ["d"] or tested


def test_a_test_only_set_has_no_other_split():
    ids = ["a", "b", "c"]
    split = split_examples(ids, ids, ["test"] * 3, val=13, test=0.2, seed=0)
    assert _names(ids, split) == {"train": [], "val": [], "test": ids}


def test_official_splits_are_kept_as_they_are():
    ids = ["d", "c", "b", "a"]
    split = split_examples(ids, ids, ["train", "train", "val", "test"], val=0.5, test=0.5, seed=0)
    assert _names(ids, split) == {"train": ["c", "d"], "val": ["b"], "test": ["a"]}


def test_a_fraction_of_few_images_is_at_least_one():
    ids = ["a", "b", "c"]
    split = split_examples(ids, ids, [""] * 3, val=0.1, test=0.1, seed=0)
    assert {key: len(indices) for key, indices in split.items()} == {
        "train": 1,
        "val": 1,
        "test": 1,
    }


@pytest.mark.parametrize(
    "ids, official, sizes, message",
    [
        (["a", "b"], ["", "dev"], (0.1, 0.1), "official split 'dev'"),
        (["a", "a"], ["", ""], (0.1, 0.1), "2 examples share 1 ids"),
        (["a", "b"], ["", ""], (1, 3), "test=3 asks for 3 images, but 2"),
        (["a", "b"], ["", ""], (2, 1), "val=2 asks for 2 images, but 1"),
        (["a", "b"], ["", ""], (-1, 1), "val=-1 asks"),
    ],
)
def test_split_errors(ids, official, sizes, message):
    with pytest.raises(DataError, match=message):
        split_examples(ids, ids, official, val=sizes[0], test=sizes[1], seed=0)


def _choose(ids, classes, budget, seed):
    return choose_labeled(ids, classes, budget, seed, task=Task.CLS, name="chex")


@pytest.mark.parametrize("seed", SEEDS)
def test_budgets_are_nested(seed):
    rng = np.random.default_rng(seed)
    ids = [f"image{i}" for i in range(120)]
    labels = rng.integers(-1, 3, 120)
    everyone = _choose(ids, labels, "all", seed)
    assert sorted(everyone.tolist()) == np.flatnonzero(labels >= 0).tolist()
    for budget in (3, 10, 50):
        np.testing.assert_array_equal(_choose(ids, labels, budget, seed), everyone[:budget])


@pytest.mark.parametrize("seed", SEEDS)
def test_every_class_is_among_the_first(seed):
    labels = np.repeat([0, 1, 2], [200, 3, 1])
    ids = [f"image{i}" for i in range(len(labels))]
    assert sorted(labels[_choose(ids, labels, 3, seed)].tolist()) == [0, 1, 2]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_answer_known_of_independent_classes_is_among_the_first(seed):
    labels = np.full((100, 3), -1)
    labels[:40, 0], labels[:60, 1], labels[50, 2] = np.arange(40) == 7, 1, 0
    ids = [f"image{i}" for i in range(100)]
    chosen = labels[_choose(ids, labels, 4, seed)]  # at most one for each of 4 answers
    assert [sorted({*column} - {-1}) for column in chosen.T.tolist()] == [[0, 1], [1], [0]]
    assert len(_choose(ids, labels, 1, seed)) == 1
    assert sorted(_choose(ids, labels, "all", seed)) == list(range(60))


@pytest.mark.parametrize("seed", SEEDS)
def test_choice_does_not_depend_on_the_order_of_the_input(seed):
    rng = np.random.default_rng(seed)
    ids, labels = np.array([f"image{i}" for i in range(60)]), rng.integers(0, 2, 60)
    order = rng.permutation(60)
    straight, mixed = _choose(ids, labels, 20, seed), _choose(ids[order], labels[order], 20, seed)
    np.testing.assert_array_equal(ids[straight], ids[order][mixed])
    assert set(straight.tolist()) != set(_choose(ids, labels, 20, seed + 1).tolist())


def test_only_images_with_a_mask_are_chosen():
    ids = [f"image{i}" for i in range(20)]
    classes = np.where(np.arange(20) % 4 == 0, 0, -1)
    assert sorted(_choose(ids, classes, "all", 0).tolist()) == [0, 4, 8, 12, 16]
    assert len(_choose(ids, np.zeros(20, int), 20, 0)) == 20


@pytest.mark.parametrize("seed", SEEDS)
def test_the_share_of_classes_is_about_that_of_the_set(seed):
    labels = (np.arange(2000) % 4 > 0).astype(int)
    chosen = _choose([f"image{i}" for i in range(2000)], labels, 400, seed)
    assert 0.68 < labels[chosen].mean() < 0.82  # 0.75, three standard deviations of .022


@pytest.mark.parametrize(
    "labels, budget, message",
    [
        (
            [0, 1, 1, -1],
            4,
            'cls_labels=4, but chex has 3 .* a label; use a number up to 3 or "all"',
        ),
        ([0, 1, 1, -1], 1, 'cls_labels=1, but chex has 2 classes .* from 2 to 3 or "all"'),
        ([0, 1, 1, -1], 0, "cls_labels=0 is not"),
        ([0, 1, 1, -1], "most", "cls_labels='most' is not"),
        ([0, 1, 1, -1], 2.5, "cls_labels=2.5 is not"),
        ([-1, -1, -1, -1], "all", "chex has no training image with a label"),
    ],
)
def test_budget_errors(labels, budget, message):
    with pytest.raises(DataError, match=message):
        _choose(["a", "b", "c", "d"], np.array(labels), budget, 0)


def test_budget_error_for_masks_names_set_key_and_remedy():
    ids = [f"JPCLN{i:03d}" for i in range(111)]
    with pytest.raises(DataError) as error:
        classes = np.zeros(len(ids), int)
        choose_labeled(ids, classes, 500, 0, task=Task.SEG, name="jsrt")
    assert str(error.value) == (
        "seg_labels=500, but jsrt has 111 training images with a mask; "
        'use a number up to 111 or "all"'
    )
