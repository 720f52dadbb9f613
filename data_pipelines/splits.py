"""Who is trained on, chosen on and tested on: pure functions of ids, groups, labels and a seed.

The random order is that of a keyed hash of each name, so it depends neither on the order in which
files were found nor on library versions, and one more image leaves the others where they are.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import DataError
from multimix_jax.names import Split, Task

Names = Sequence[str] | NDArray[np.str_]
Indices = NDArray[np.int64]

ANNOTATION = {Task.SEG: "a mask", Task.CLS: "a label"}  # for messages


# By data set, where not the defaults of `split_examples`. Haque et al. 2021 (MultiMix): JSRT 111 /
# 13 / 123, MCU 93 / 10 / 35. CheX has 16 official validation images, too few to choose a checkpoint
# on.
SIZES: dict[str, dict[str, Any]] = {
    "chex": dict(enlarge_val=True),
    "jsrt": dict(val=13, test=123),
    "mcu": dict(val=10, test=35),
}


def split_examples(
    ids: Names,
    groups: Names,
    official: Names,
    *,
    seed: int,
    traits: NDArray[np.bool_] | None = None,
    val: int | float = 0.1,
    test: int | float = 0.2,
    enlarge_val: bool = False,
) -> dict[str, Indices]:
    """Divides examples into train, val and test.

    Official splits stay what they are, but a set without an official val gets one out of train.
    What is carved is taken by whole groups (patients) until the size is reached, so it may exceed
    it by part of a group. A training image of a patient in val moves to val; an image without an
    official split follows its patient into train or test. Only an official train and test that
    share patients keep sharing them.

    Of each trait every part gets half to twice its share, and one group at least, where there are
    enough of them: two suffice for train and val, three for test as well.

    Args:
        ids, groups: [N] unique names, and the patient of each.
        official: [N] 'train', 'val', 'test', or '' where there is no official split.
        seed: of the order in which groups are carved.
        traits: [N, F], what an example may have that every part should: a mask, a class.
        val, test: how much to carve where the official split lacks it, as a count of images or a
            fraction: `test` of those that are in no official split, nor is another image of their
            patient; `val` of those outside the test set.
        enlarge_val: fills up an official validation set that is smaller than `val`.

    Returns:
        For each split, indices into `ids`, ordered by id; they are disjoint and cover all.

    Raises:
        DataError: unknown official splits, repeated ids, or more asked for than there is.
    """
    ids, groups, official = (np.asarray(names, dtype=str) for names in (ids, groups, official))
    unknown = set(official.tolist()) - {*Split, ""}
    if unknown:
        raise DataError(f"official split {min(unknown)!r}; use 'train', 'val', 'test' or ''")
    if len(np.unique(ids)) != len(ids):
        raise DataError(f"{len(ids)} examples share {len(np.unique(ids))} ids; make ids unique")

    is_test, is_val = official == Split.TEST, official == Split.VAL
    is_test |= (official == "") & np.isin(groups, groups[is_test])
    is_val |= ~is_test & np.isin(groups, groups[is_val])
    if traits is None:
        traits = np.zeros((len(ids), 0), bool)
    no_val = not is_val.any()
    if not is_test.any():
        free = (official == "") & ~is_val & ~np.isin(groups, groups[official == Split.TRAIN])
        wanted = _count("test", test, int(np.sum(free)), available=int(np.sum(free)))
        is_test = _carve(groups, free, wanted, seed, "test", traits, spared=1 + no_val)
    if enlarge_val or no_val:
        rest = int(np.sum(~is_test))
        wanted = _count("val", val, rest, available=rest) - int(np.sum(is_val))
        is_val |= _carve(groups, ~is_test & ~is_val, wanted, seed, "val", traits, spared=1)

    by_id = np.argsort(ids)
    members = {Split.TRAIN: ~is_val & ~is_test, Split.VAL: is_val, Split.TEST: is_test}
    return {split: by_id[member[by_id]] for split, member in members.items()}


def choose_labeled(
    ids: Names,
    classes: NDArray[np.integer],
    budget: int | str,
    seed: int,
    *,
    task: Task,
    name: str,
) -> Indices:
    """Chooses the training examples, of a set of that name, whose mask or label may be used.

    Budgets are nested: each is the start of one seeded order of all candidates, whose first places
    hold an example of each class; of independent classes one with and one without each.

    Args:
        ids: [N] unique names of the training examples.
        classes: [N] from 0, or [N, K] of 0 and 1 for independent classes; -1 = unknown. Examples of
            which nothing is known cannot be chosen.
        budget: how many, as a number or its digits, or 'all'.

    Returns:
        [budget] indices into `ids`, in the seeded order.

    Raises:
        DataError: the budget is below 1, below the number of classes, or above what there is.
    """
    key, what = f"{task}_labels", ANNOTATION[task]
    ids = np.asarray(ids, dtype=str)
    answers = np.atleast_2d(classes.T).T
    candidates = np.flatnonzero(answers.max(axis=1) >= 0)
    order = candidates[_shuffle(ids[candidates], seed, "labeled")]
    if not len(order):
        raise DataError(f"{name} has no training image with {what}; {key} needs a set that has")
    # In the seeded order, not in that of the classes.
    columns = [(column, value) for column in answers[order].T for value in np.unique(column)]
    firsts = np.unique([np.argmax(column == value) for column, value in columns if value >= 0])
    least, most = len(firsts) if classes.ndim == 1 else 1, len(order)
    remedy = f'use a number from {least} to {most} or "all"'
    if budget == "all":
        budget = most
    if isinstance(budget, str) and budget.isdigit():
        budget = int(budget)
    if isinstance(budget, bool | str) or budget != int(budget) or budget < 1:
        raise DataError(f"{key}={budget!r} is not a number of training images of {name}; {remedy}")
    if budget > most:
        raise DataError(
            f"{key}={budget}, but {name} has {most} training images with {what}; "
            f'use a number up to {most} or "all"'
        )
    if budget < least:
        raise DataError(
            f"{key}={budget}, but {name} has {least} classes and each needs an example; {remedy}"
        )
    return np.concatenate([order[firsts], np.delete(order, firsts)])[: int(budget)]


def _shuffle(names: NDArray[np.str_], seed: int, purpose: str) -> Indices:
    """Indices into names, each there once, in an order that is random in (seed, purpose)."""

    def rank(index: int) -> bytes:
        text = f"{seed}/{purpose}/{names[index]}"
        return hashlib.blake2b(text.encode(), digest_size=8).digest()

    return np.array(sorted(range(len(names)), key=rank), np.int64)


def _count(key: str, size: int | float, total: int, *, available: int) -> int:
    """The number of images meant by a count or by a fraction of `total`; a fraction is not none."""
    if not total:
        return 0
    count = max(1, round(size * total)) if isinstance(size, float) and size > 0 else int(size)
    if not 0 <= count <= available:
        raise DataError(
            f"{key}={size} asks for {count} images, but {available} can be taken; "
            f"use a count up to {available} or a fraction below 1"
        )
    return count


def _carve(
    groups: NDArray[np.str_],
    pool: NDArray[np.bool_],
    count: int,
    seed: int,
    purpose: str,
    traits: NDArray[np.bool_],
    spared: int,
) -> NDArray[np.bool_]:
    """Marks whole groups of the pool, in random order, until `count` examples are marked.

    Groups with a trait that would be too rare go first; where it would be too frequent, or less
    than `spared` groups with it would be left, they go last.
    """
    names, member, sizes = np.unique(groups[pool], return_inverse=True, return_counts=True)
    order = _shuffle(names, seed, purpose)
    has = np.zeros((len(names), traits.shape[1]), bool)
    np.logical_or.at(has, member, traits[pool])
    has, sizes = has[order], sizes[order]
    groups_with = has.sum(axis=0)
    share = groups_with * count / max(1, sizes.sum())
    most = np.minimum(np.maximum(2 * share, 1), groups_with - spared)
    least = np.minimum(np.maximum(share // 2, 1), most)
    marked, held, size = np.zeros(len(names), bool), np.zeros_like(groups_with), 0
    may: Callable[[int], bool] = lambda index: not marked[index] and (held < most)[has[index]].all()

    def mark(index: int) -> None:
        nonlocal held, size
        marked[index], held, size = True, held + has[index], size + int(sizes[index])

    for trait in np.argsort(groups_with, kind="stable") if count > 0 else ():
        for index in np.flatnonzero(has[:, trait]).tolist():
            if held[trait] < least[trait] and may(index):
                mark(index)
    for condition in (may, lambda index: not marked[index]):
        for index in range(len(names)):
            if size < count and condition(index):
                mark(index)
    return pool & np.isin(groups, names[order][marked])
