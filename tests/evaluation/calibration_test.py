"""Tests of multimix_jax.evaluation.calibration."""

import numpy as np
import pytest
import scipy.special
from sklearn.metrics import log_loss

from multimix_jax.evaluation import calibration
from multimix_jax.evaluation.calibration import Calibration, best_threshold
from multimix_jax.evaluation.classification import classification_metrics
from tests.evaluation.classification_test import names, random_classes


def drawn(classes, count=4000, seed=0):
    """Logits, and labels that come as often as the softmax of these says."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (count, classes))
    labels = (rng.random((count, 1)) > scipy.special.softmax(logits, 1).cumsum(1)).sum(1)
    return logits, labels


def test_divides_the_logits():
    logits, _ = drawn(3, count=50)
    got = Calibration(temperature=2.5)(scipy.special.softmax(logits, 1))
    np.testing.assert_allclose(got, scipy.special.softmax(logits / 2.5, 1), atol=1e-6)


def test_certainty_stays_finite():
    got = np.asarray(Calibration(temperature=10.0)(np.array([[0.0, 1.0], [1.0, 0.0]])))
    assert (got[0] == got[1][::-1]).all() and 0 < got[0, 0] < 0.01


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("overconfidence", [0.5, 1.0, 4.0])
def test_finds_the_temperature(classes, overconfidence):
    logits, labels = drawn(classes)
    said = scipy.special.softmax(overconfidence * logits, 1)
    found, doubts = calibration.fit(said, labels)
    assert not doubts
    assert found.temperature == pytest.approx(overconfidence, rel=0.1)
    loss = lambda t: log_loss(labels, scipy.special.softmax(overconfidence * logits / t, 1))
    least = min(loss(overconfidence * factor) for factor in np.linspace(0.8, 1.25, 91))
    assert loss(found.temperature) <= least + 1e-6
    assert (found.threshold is None) == (classes == 3)


@pytest.mark.parametrize(
    ("right", "words"), [(0.9, "nearly all right"), (0.1, "no better than by chance")]
)
def test_a_set_that_would_have_any_temperature_has_none(right, words):
    labels = np.arange(20) % 2
    found, doubts = calibration.fit(np.where(np.eye(2)[labels] > 0, right, 1 - right), labels)
    assert found == Calibration(threshold=pytest.approx(0.5))
    assert len(doubts) == 1 and words in doubts[0]


@pytest.mark.parametrize("few", [0, 1, 4])
@pytest.mark.parametrize("side", [0, 1])
def test_too_few_of_either_class_choose_nothing(few, side):
    """As where a split leaves one class in validation: then no class would ever be predicted."""
    labels = np.where(np.arange(14) < few, side, 1 - side)
    ill = np.linspace(0.3, 0.9, 14)
    found, doubts = calibration.fit(np.stack([1 - ill, ill], 1), labels)
    assert found == Calibration(temperature=1.0, threshold=0.5)
    assert len(doubts) == 1 and "takes 5 validation images of two classes" in doubts[0]


def test_a_class_that_is_not_in_validation():
    """The temperature is of all classes together: two common ones are enough."""
    logits, labels = drawn(3)
    kept = labels != 2
    found, doubts = calibration.fit(scipy.special.softmax(logits, 1)[kept], labels[kept])
    assert not doubts and found.temperature != 1
    ones = np.where(labels == 0)[0]
    found, doubts = calibration.fit(scipy.special.softmax(logits, 1)[ones], labels[ones])
    assert found == Calibration() and doubts


def test_the_threshold_is_of_calibrated_probabilities():
    """Class 1 is ill only from a logit of 2 on, and the network is four times too sure."""
    logits = np.linspace(-4, 4, 401)
    labels = (logits > 2).astype(int)
    said = scipy.special.softmax(np.stack([np.zeros(401), 4 * logits], 1), 1)
    found, _ = calibration.fit(said, labels)
    wanted = np.asarray(found(said))[logits > 2][0, 1]
    assert found.threshold == pytest.approx(wanted, abs=0.01)


def test_multi_label():
    logits = np.random.default_rng(0).normal(0, 1.5, (2000, 3))
    labels = (np.random.default_rng(1).random((2000, 3)) < scipy.special.expit(logits)).astype(int)
    found, _ = calibration.fit(scipy.special.expit(3 * logits), labels)
    assert found.temperature == pytest.approx(3, rel=0.1)
    assert found.threshold is None and found.multi_label
    got = found(scipy.special.expit(3 * logits))
    np.testing.assert_allclose(got, scipy.special.expit(3 * logits / found.temperature), atol=1e-5)
    at = lambda t: log_loss(labels.ravel(), scipy.special.expit(3 * logits / t).ravel())
    assert at(found.temperature) <= min(map(at, np.linspace(2.5, 3.5, 101))) + 1e-6
    # What is unknown of an image is as if the image had not been asked for that class.
    unknown = np.random.default_rng(2).random((2000, 3)) < [0, 0.3, 0.6]
    got, _ = calibration.fit(scipy.special.expit(3 * logits), np.where(unknown, -1, labels))
    one = scipy.special.expit(3 * logits)[~unknown][:, None]
    assert calibration.fit(one, labels[~unknown][:, None])[0] == got != found


def test_labels_that_are_no_classes():
    with pytest.raises(ValueError, match="leave unlabelled images out"):
        calibration.fit(np.full((2, 2), 0.5), np.array([0, -1]))


@pytest.mark.parametrize(
    ("positive", "labels", "want"),
    [
        ([0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1], 0.4),
        ([0.1, 0.2, 0.3, 0.9], [1, 0, 1, 0], 0.25),
        ([0.3, 0.3, 0.7], [1, 1, 1], 0.5),
        ([0.3, 1.0], [0, 0], 0.65),
        ([0.2, 0.2], [0, 1], 0.5),
    ],
)
def test_best_threshold_by_hand(positive, labels, want):
    positive = np.asarray(positive)
    probabilities = np.stack([1 - positive, positive], 1)
    got = best_threshold(probabilities, np.asarray(labels))
    assert got == pytest.approx(want, abs=5e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_threshold_is_more_accurate(dtype):
    for seed in range(20):
        probabilities, labels = random_classes(30, 2, seed, 2 if seed % 2 else 8)
        probabilities = probabilities.astype(dtype)
        threshold = best_threshold(probabilities, labels)
        got = classification_metrics(
            probabilities, labels, class_names=names(2), threshold=threshold
        )
        scores = probabilities[:, 1]
        best = max(np.mean((scores >= t) == labels) for t in scores[scores > scores.min()])
        assert scores.min() < threshold < scores.max()
        assert got["accuracy"] == pytest.approx(best, abs=5e-8)


@pytest.mark.parametrize(
    ("shape", "labels", "words"),
    [
        ((4, 3), [0, 1, 0, 1], "2 columns"),
        ((3, 2), [0, 1, 0, 1], "for 4 labels"),
        ((0, 2), [], "at least one"),
        ((4, 2), [0, 1, -1, 1], "unlabelled"),
        ((4, 2), [0, 1, 2, 1], "expected 0 to 1"),
    ],
)
def test_best_threshold_of_what_does_not_belong_together(shape, labels, words):
    with pytest.raises(ValueError, match=words):
        best_threshold(np.ones(shape), np.asarray(labels, int))
