"""Tests of multimix_jax.evaluation.classification."""

import warnings

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from multimix_jax.evaluation.classification import (
    accuracy_of_each,
    classification_metrics,
    share_right,
)
from multimix_jax.evaluation.intervals import percentile_interval, resampled_counts


def random_classes(count, classes, seed, decimals):
    """Probabilities, rounded so that some scores tie, and labels that follow them a little."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes)) + np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probabilities.round(decimals), labels


def loop_ece(probabilities, labels):
    """Fifteen bins, one image after the other."""
    bins = [[] for _ in range(15)]
    for row, label in zip(probabilities, labels, strict=True):
        if len(row) == 2:
            predicted = 1 if row[1] >= 0.5 else 0
        else:
            predicted = max(range(len(row)), key=lambda k: row[k])
        number = next(b for b in range(15) if row[predicted] <= (b + 1) / 15 + 1e-12)
        bins[number].append((row[predicted], predicted == label))
    total = 0.0
    for entries in filter(None, bins):
        confidence, right = np.mean(entries, axis=0)
        total += len(entries) / len(labels) * abs(confidence - right)
    return total


def sklearn_classification(probabilities, labels, threshold=0.5):
    classes = probabilities.shape[1]
    if classes == 2:
        predicted = (probabilities[:, 1] >= threshold).astype(int)
    else:
        predicted = probabilities.argmax(1)
    occurring = [k for k in range(classes) if 0 < (labels == k).sum() < len(labels)]
    f1 = sklearn_metrics.f1_score(
        labels, predicted, labels=range(classes), average=None, zero_division=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Predicted classes that do not occur.
        balanced = sklearn_metrics.balanced_accuracy_score(labels, predicted)

    def one_against_rest(score):
        return {
            k: score(labels == k, probabilities[:, k]) if k in occurring else np.nan
            for k in range(classes)
        }

    def mean(values):
        return np.nanmean(list(values)) if occurring else np.nan

    precisions = one_against_rest(sklearn_metrics.average_precision_score)
    return {
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": balanced,
        **{f"f1_{k}": f1[k] for k in range(classes)},
        "auroc": mean(one_against_rest(sklearn_metrics.roc_auc_score).values()),
        "average_precision": mean(precisions.values()),
        **{f"average_precision_{k}": value for k, value in precisions.items()},
        "ece": loop_ece(probabilities, labels),
    }


def names(classes):
    return [str(k) for k in range(classes)]


def check(got, want):
    assert list(got) == list(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, atol=1e-12, err_msg=name)


def test_by_hand():
    positive = np.asarray([0.9, 0.6, 0.4, 0.2])
    got = classification_metrics(
        np.stack([1 - positive, positive], 1),
        np.asarray([1, 0, 1, 0]),
        class_names=("normal", "pneumonia"),
    )
    # Three of four pairs are in order; precision is 1 at recall 1/2 and 2/3 at recall 1, whichever
    # class is the positive one.
    # Confidences .9 right, .6 wrong, .6 wrong, .8 right; the two of .6 share a bin.
    want = {
        "accuracy": 1 / 2,
        "balanced_accuracy": 1 / 2,
        "f1_normal": 1 / 2,
        "f1_pneumonia": 1 / 2,
        "auroc": 3 / 4,
        "average_precision": 5 / 6,
        "average_precision_normal": 5 / 6,
        "average_precision_pneumonia": 5 / 6,
        "ece": (0.1 + 0.6 + 0.6 + 0.2) / 4,
    }
    check(got, want)


@pytest.mark.parametrize("classes", (2, 3, 5))
@pytest.mark.parametrize("decimals", (1, 8))
@pytest.mark.parametrize("threshold", (0.5, 0.3))
def test_equals_scikit_learn(classes, decimals, threshold):
    probabilities, labels = random_classes(200, classes, classes, decimals)
    got = classification_metrics(
        probabilities, labels, class_names=names(classes), threshold=threshold
    )
    check(got, sklearn_classification(probabilities, labels, threshold))


def test_multi_label():
    """Each as scikit-learn sees it by itself, and their means."""
    rng = np.random.default_rng(3)
    probabilities, labels = rng.random((50, 3)), rng.integers(0, 2, (50, 3))
    each = [
        sklearn_classification(np.stack([1 - p, p], 1), label, 0.4)
        for p, label in zip(probabilities.T, labels.T, strict=True)
    ]
    mean = lambda key: np.mean([one[key] for one in each])
    want = {key: mean(key) for key in ("accuracy", "balanced_accuracy")}
    want |= {f"f1_{k}": one["f1_1"] for k, one in enumerate(each)}
    precisions = {f"average_precision_{k}": each[k]["average_precision_1"] for k in range(3)}
    want |= {"auroc": mean("auroc"), "average_precision": np.mean(list(precisions.values()))}
    want |= precisions | {"ece": mean("ece")}
    want |= {f"auroc_{k}": one["auroc"] for k, one in enumerate(each)}
    got = classification_metrics(probabilities, labels, class_names=names(3), threshold=0.4)
    check(got, want)
    right = ((probabilities >= 0.5) == labels).mean(1)
    np.testing.assert_array_equal(share_right(probabilities, labels), right)


def test_no_figure_depends_on_which_class_comes_first():
    """As where one is called 'pneumonia' or 'abnormal' beside 'normal'."""
    probabilities, labels = random_classes(60, 2, 0, 8)
    labels[labels == 1] *= np.arange((labels == 1).sum()) % 4 == 0  # one class is rare
    got = classification_metrics(probabilities, labels, class_names=("normal", "pneumonia"))
    turned = classification_metrics(
        probabilities[:, ::-1], 1 - labels, class_names=("pneumonia", "normal")
    )
    assert got == pytest.approx(turned)
    rare, common = (got[f"average_precision_{name}"] for name in ("pneumonia", "normal"))
    assert rare < common - 0.3 and got["average_precision"] == pytest.approx((rare + common) / 2)


def test_what_is_unknown_of_an_image_is_left_out_class_by_class():
    """Each class is as scikit-learn sees it on the images of which it is known."""
    rng = np.random.default_rng(4)
    probabilities, labels = rng.random((40, 3)), rng.integers(0, 2, (40, 3))
    labels[rng.random((40, 3)) < 0.4] = -1
    labels[:, 2] = -1
    some = (labels >= 0).any(axis=1)
    probabilities, labels = probabilities[some], labels[some]
    each = []
    for k in range(2):
        known = labels[:, k] >= 0
        p = probabilities[known, k]
        each.append(sklearn_classification(np.stack([1 - p, p], 1), labels[known, k]))
    got = classification_metrics(probabilities, labels, class_names=names(3))
    for key in ("accuracy", "balanced_accuracy", "auroc", "ece"):
        assert got[key] == pytest.approx(np.mean([one[key] for one in each])), key
    for k, one in enumerate(each):
        assert got[f"f1_{k}"] == pytest.approx(one["f1_1"])
        assert got[f"average_precision_{k}"] == pytest.approx(one["average_precision_1"])
    assert all(np.isnan(got[f"{key}_2"]) for key in ("f1", "auroc", "average_precision"))
    weights = resampled_counts(len(labels), resamples=5)
    drawn = classification_metrics(probabilities, labels, class_names=names(3), weights=weights)
    assert np.isfinite(drawn["accuracy"]).all() and np.isnan(drawn["f1_2"]).all()
    known = (labels >= 0).sum(axis=1)
    right = ((labels >= 0) & ((probabilities >= 0.5) == (labels > 0))).sum(axis=1)
    np.testing.assert_allclose(share_right(probabilities, labels), right / known)
    assert accuracy_of_each(probabilities, labels).mean() == pytest.approx(got["accuracy"])


def test_a_class_that_never_occurs():
    probabilities, labels = random_classes(60, 3, 0, 2)
    labels = np.where(labels == 2, 0, labels)
    got = classification_metrics(probabilities, labels, class_names=names(3))
    check(got, sklearn_classification(probabilities, labels))


@pytest.mark.parametrize("classes", (2, 3))
@pytest.mark.parametrize("label", (0, 1))
def test_one_class_only(classes, label):
    probabilities, _ = random_classes(30, classes, 0, 2)
    labels = np.full(30, label)
    got = classification_metrics(probabilities, labels, class_names=names(classes))
    check(got, sklearn_classification(probabilities, labels))
    assert np.isnan(got["auroc"]) and np.isnan(got["average_precision"])
    weights = resampled_counts(30, resamples=10)
    drawn = classification_metrics(
        probabilities, labels, class_names=names(classes), weights=weights
    )
    assert np.isnan(percentile_interval(drawn["auroc"])).all()


def test_one_image():
    got = classification_metrics(
        np.asarray([[0.25, 0.75]], np.float32), np.asarray([1]), class_names=names(2)
    )
    assert (got["accuracy"], got["f1_0"], got["ece"]) == (1, 0, 0.25)


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
def test_labels_and_probabilities_that_do_not_belong_together(shape, labels, words):
    for weights in (None, np.ones((1, len(labels)))):
        with pytest.raises(ValueError, match=words):
            classification_metrics(
                np.ones(shape), np.asarray(labels, int), class_names=names(2), weights=weights
            )


@pytest.mark.parametrize(("classes", "count", "decimals"), [(2, 80, 1), (2, 6, 8), (3, 60, 2)])
def test_equals_scikit_learn_on_each_resample(classes, count, decimals):
    probabilities, labels = random_classes(count, classes, 1, decimals)
    weights = resampled_counts(count, seed=5, resamples=15)
    got = classification_metrics(
        probabilities, labels, class_names=names(classes), threshold=0.4, weights=weights
    )
    drawn = np.random.default_rng(5).integers(0, count, (15, count))
    rows = [sklearn_classification(probabilities[i], labels[i], 0.4) for i in drawn]
    assert list(got) == list(rows[0])
    for name, values in got.items():
        interval = percentile_interval(values)
        want = np.nanpercentile([row[name] for row in rows], (2.5, 97.5))
        np.testing.assert_allclose(interval, want, atol=1e-12, err_msg=name)
