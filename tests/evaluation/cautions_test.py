"""Tests of multimix_jax.evaluation.cautions."""

import numpy as np
import pytest

from multimix_jax.evaluation import cautions
from multimix_jax.names import Task


def results(**sets):
    """Of the best weights; the baseline has a Dice of .4, and is right of 60 % at any class."""
    same = {"dice": 0.4, "accuracy": 0.6, "auroc": 0.5}
    entries = lambda of: {name: {"mean": value} for name, value in of.items()}
    best = {name: entries(summary) for name, summary in sets.items()}
    return {"best": best, "last": best, "baseline": {name: entries(same) for name in sets}}


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        ({"dice": 0.4, "accuracy": 0.7, "auroc": 0.9}, []),
        ({"accuracy": 0.5, "auroc": 0.9}, ["accuracy 0.500 is below the 0.600 of the baseline"]),
        ({"dice": 0.3}, ["own: dice 0.300 is below the 0.400"]),
        ({"ece": 0.265, "ece_calibrated": 0.321}, ["ece is 0.265, but 0.321 as calibrated"]),
        ({"ece": 0.3, "ece_calibrated": 0.305}, []),
        (
            {"accuracy": 0.8, "accuracy_at_validation_threshold": 0.7},
            ["accuracy is 0.800, but 0.700 as calibrated"],
        ),
    ],
)
def test_what_results_ask_to_be_read_with_care(summary, words):
    found = list(cautions.of_results(results(own=summary), ()))
    assert len(found) == len(words)
    for word, text in zip(words, found):
        assert word in text and text.endswith("(best and last weights)")


def test_a_task_that_is_not_tested():
    found = list(cautions.of_results(results(own={"dice": 0.9}), tuple(Task)))
    assert found == ["classes are predicted, but known of no test image"]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.arange(60) % 3, []),
        (np.arange(60) % 2, ["own: fewer than 5 validation images are c"]),
        (
            np.arange(7) % 2,
            ["classes of 7 validation images alone", "5 validation images are a, b, c"],
        ),
        (np.where(np.arange(60)[:, None] < [60, 5, 4], 1, -1), ["validation images are c"]),
    ],
)
def test_small_validation_sets(labels, words):
    found = list(cautions.of_classes("own", labels, ("a", "b", "c")))
    assert [word in text for word, text in zip(words, found, strict=True)] == [True] * len(words)
    assert len(list(cautions.of_masks("own", 9))) == 1 and not list(cautions.of_masks("own", 10))
