import warnings

import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn import metrics as sklearn_metrics

from multimix_jax.evaluation import geometry, metrics

OVERLAPS = ("dice", "jaccard", "precision", "recall")
DISTANCES = ("hd", "hd95", "assd", "ahd")


def square(top, left, side=4, size=8):
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def random_blobs(seed, shape=(20, 26)):
    rng = np.random.default_rng(seed)
    noise = rng.random((2, *shape)) < 0.02
    noise[:, 4:14, 6:15] |= rng.random((2, 10, 9)) < 0.95
    return noise


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
        columns = [1]
    else:
        predicted = probabilities.argmax(1)
        columns = range(classes)
    occurring = [k for k in columns if 0 < (labels == k).sum() < len(labels)]
    f1 = sklearn_metrics.f1_score(
        labels, predicted, labels=range(classes), average=None, zero_division=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Predicted classes that do not occur.
        balanced = sklearn_metrics.balanced_accuracy_score(labels, predicted)

    def one_against_rest(score):
        values = [score(labels == k, probabilities[:, k]) for k in occurring]
        return np.mean(values) if values else np.nan

    return {
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": balanced,
        **{f"f1_{k}": f1[k] for k in range(classes)},
        "auroc": one_against_rest(sklearn_metrics.roc_auc_score),
        "average_precision": one_against_rest(sklearn_metrics.average_precision_score),
        "ece": loop_ece(probabilities, labels),
    }


def names(classes):
    return [str(k) for k in range(classes)]


class SegmentationTest(parameterized.TestCase):
    def check(self, got, **want):
        for name, value in want.items():
            self.assertAlmostEqual(got[name], value, msg=name)

    def test_by_hand(self):
        # Squares of 4 x 4, one column apart: 12 of 16 pixels in common. Of the 12 pixels of a
        # ring 6 lie on the other ring; the rest are a pixel away, 4 along a row, 2 along a column.
        prediction, truth = square(2, 3), square(2, 2)
        got = metrics.segmentation_metrics(prediction, truth, spacing=(2.0, 3.0))
        self.check(got, dice=24 / 32, jaccard=12 / 20, precision=12 / 16, recall=12 / 16)
        self.check(got, hd=1, hd95=1, assd=6 / 12, ahd=6 / 12)
        self.check(got, hd_mm=3, hd95_mm=3, assd_mm=16 / 12, ahd_mm=16 / 12)

    def test_precision_is_of_the_prediction(self):
        got = metrics.segmentation_metrics(square(2, 2, side=2), square(2, 2))
        self.check(got, dice=8 / 20, jaccard=4 / 16, precision=1, recall=4 / 16)

    @parameterized.parameters((None,), ((1.4, 0.6),))
    def test_distances_equal_brute_force(self, spacing):
        for seed in range(4):
            masks = random_blobs(seed)
            points = [np.argwhere(geometry.surface(m)) * (spacing or (1, 1)) for m in masks]
            matrix = cdist(*points)
            there, back = matrix.min(1), matrix.min(0)
            got = metrics.segmentation_metrics(*masks, spacing=spacing)
            suffix = "_mm" if spacing else ""
            want = {
                "hd": max(there.max(), back.max()),
                "hd95": max(np.quantile(there, 0.95), np.quantile(back, 0.95)),
                "assd": (there.sum() + back.sum()) / (len(there) + len(back)),
                "ahd": max(there.mean(), back.mean()),
            }
            self.check(got, **{name + suffix: value for name, value in want.items()})

    def test_ssim_equals_a_loop_over_windows(self):
        prediction, truth = random_blobs(0, (16, 18)).astype(float)
        values = []
        for y in range(16 - 6):
            for x in range(18 - 6):
                p, t = (m[y : y + 7, x : x + 7].ravel() for m in (prediction, truth))
                (vp, cov), (_, vt) = np.cov(p, t)
                luminance = (2 * p.mean() * t.mean() + 1e-4) / (
                    p.mean() ** 2 + t.mean() ** 2 + 1e-4
                )
                values.append(luminance * (2 * cov + 9e-4) / (vp + vt + 9e-4))
        got = metrics.segmentation_metrics(prediction > 0, truth > 0)
        self.assertAlmostEqual(got["ssim"], np.mean(values))

    @parameterized.parameters((None,), ((0.0, 0.0),), ((0.5, 2.0),))
    def test_equal_masks_and_empty_ones(self, spacing):
        empty, full = np.zeros((9, 12), bool), np.ones((9, 12), bool)
        units = {"": np.hypot(9, 12)}
        if spacing == (0.5, 2.0):
            units["_mm"] = np.hypot(4.5, 24)
        for pair, overlap in (((empty, empty), 1), ((full, full), 1), ((empty, full), 0)):
            for masks in (pair, pair[::-1]):
                got = metrics.segmentation_metrics(*masks, spacing=spacing)
                keys = {*OVERLAPS, "ssim", *(d + unit for d in DISTANCES for unit in units)}
                self.assertEqual(set(got), keys)
                self.check(got, **dict.fromkeys(OVERLAPS, overlap))
                for unit, diagonal in units.items():
                    distance = 0 if overlap else diagonal
                    self.check(got, **{d + unit: distance for d in DISTANCES})
                if overlap:
                    self.assertAlmostEqual(got["ssim"], 1)

    def test_volumes(self):
        truth = np.zeros((8, 9, 10), bool)
        truth[2:6, 2:6, 2:6] = True
        got = metrics.segmentation_metrics(np.roll(truth, 2, 0), truth, spacing=(3.0, 1.0, 1.0))
        self.check(got, dice=0.5, hd=2, hd_mm=6)

    @parameterized.parameters(
        (np.full((8, 8), 0.3), "prediction is float64, expected bool"),
        (np.ones((8, 9), bool), r"\(8, 9\), but truth is \(8, 8\)"),
    )
    def test_wrong_masks_are_refused(self, prediction, words):
        with self.assertRaisesRegex(ValueError, words):
            metrics.segmentation_metrics(prediction, np.ones((8, 8), bool))

    def test_too_small_for_ssim(self):
        mask = np.ones((8, 8, 1), bool)
        with self.assertRaisesRegex(ValueError, "7 pixels a side"):
            metrics.segmentation_metrics(mask, mask)


class ClassificationTest(parameterized.TestCase):
    def check(self, got, want):
        self.assertEqual(list(got), list(want))
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, atol=1e-12, err_msg=name)

    def test_by_hand(self):
        positive = np.asarray([0.9, 0.6, 0.4, 0.2])
        got = metrics.classification_metrics(
            np.stack([1 - positive, positive], 1),
            np.asarray([1, 0, 1, 0]),
            class_names=("normal", "pneumonia"),
        )
        # Three of four pairs are in order; precision is 1 at recall 1/2 and 2/3 at recall 1.
        # Confidences .9 right, .6 wrong, .6 wrong, .8 right; the two of .6 share a bin.
        want = {
            "accuracy": 1 / 2,
            "balanced_accuracy": 1 / 2,
            "f1_normal": 1 / 2,
            "f1_pneumonia": 1 / 2,
            "auroc": 3 / 4,
            "average_precision": 5 / 6,
            "ece": (0.1 + 0.6 + 0.6 + 0.2) / 4,
        }
        self.check(got, want)

    @parameterized.product(classes=(2, 3, 5), decimals=(1, 8), threshold=(0.5, 0.3))
    def test_equals_scikit_learn(self, classes, decimals, threshold):
        probabilities, labels = random_classes(200, classes, classes, decimals)
        got = metrics.classification_metrics(
            probabilities, labels, class_names=names(classes), threshold=threshold
        )
        self.check(got, sklearn_classification(probabilities, labels, threshold))

    def test_independent_classes(self):
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
        want |= {key: mean(key) for key in ("auroc", "average_precision", "ece")}
        want |= {f"auroc_{k}": one["auroc"] for k, one in enumerate(each)}
        got = metrics.classification_metrics(
            probabilities, labels, class_names=names(3), threshold=0.4
        )
        self.check(got, want)
        right = ((probabilities >= 0.5) == labels).mean(1)
        np.testing.assert_array_equal(metrics.share_right(probabilities, labels), right)

    def test_a_class_that_never_occurs(self):
        probabilities, labels = random_classes(60, 3, 0, 2)
        labels = np.where(labels == 2, 0, labels)
        got = metrics.classification_metrics(probabilities, labels, class_names=names(3))
        self.check(got, sklearn_classification(probabilities, labels))

    @parameterized.product(classes=(2, 3), label=(0, 1))
    def test_one_class_only(self, classes, label):
        probabilities, _ = random_classes(30, classes, 0, 2)
        labels = np.full(30, label)
        got = metrics.classification_metrics(probabilities, labels, class_names=names(classes))
        self.check(got, sklearn_classification(probabilities, labels))
        self.assertTrue(np.isnan(got["auroc"]) and np.isnan(got["average_precision"]))
        drawn = metrics.classification_resamples(
            probabilities, labels, class_names=names(classes), resamples=10
        )
        self.assertTrue(np.isnan(metrics.percentile_interval(drawn["auroc"])).all())

    def test_one_image(self):
        got = metrics.classification_metrics(
            np.asarray([[0.25, 0.75]], np.float32), np.asarray([1]), class_names=names(2)
        )
        self.assertEqual((got["accuracy"], got["f1_0"], got["ece"]), (1, 0, 0.25))

    @parameterized.parameters(
        ((4, 3), [0, 1, 0, 1], "2 columns"),
        ((3, 2), [0, 1, 0, 1], "for 4 labels"),
        ((0, 2), [], "at least one"),
        ((4, 2), [0, 1, -1, 1], "unlabelled"),
        ((4, 2), [0, 1, 2, 1], "expected 0 to 1"),
    )
    def test_errors(self, shape, labels, words):
        for function in (metrics.classification_metrics, metrics.classification_resamples):
            with self.assertRaisesRegex(ValueError, words):
                function(np.ones(shape), np.asarray(labels, int), class_names=names(2))
        with self.assertRaisesRegex(ValueError, words):
            metrics.best_threshold(np.ones(shape), np.asarray(labels, int))


class ThresholdTest(parameterized.TestCase):
    @parameterized.parameters(
        ([0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1], 0.4),  # In the middle of the gap.
        ([0.1, 0.2, 0.3, 0.9], [1, 0, 1, 0], 0.25),  # As good: 0, which is further from 0.5.
        ([0.3, 0.3, 0.7], [1, 1, 1], 0.0),
        ([0.3, 1.0], [0, 0], 1.0),
    )
    def test_by_hand(self, positive, labels, want):
        positive = np.asarray(positive)
        probabilities = np.stack([1 - positive, positive], 1)
        got = metrics.best_threshold(probabilities, np.asarray(labels))
        self.assertAlmostEqual(got, want)

    @parameterized.parameters(np.float32, np.float64)
    def test_no_threshold_is_more_accurate(self, dtype):
        for seed in range(20):
            probabilities, labels = random_classes(30, 2, seed, 2 if seed % 2 else 8)
            probabilities = probabilities.astype(dtype)
            threshold = metrics.best_threshold(probabilities, labels)
            got = metrics.classification_metrics(
                probabilities, labels, class_names=names(2), threshold=threshold
            )
            scores = probabilities[:, 1]
            best = max(np.mean((scores >= t) == labels) for t in [*scores, 2.0])
            self.assertAlmostEqual(got["accuracy"], best)


class IntervalTest(parameterized.TestCase):
    def test_mean_agrees_with_scipy_and_theory(self):
        values = np.random.default_rng(0).gamma(2.0, size=300)
        got = metrics.bootstrap_interval(values, resamples=4000)
        scipys = stats.bootstrap(
            (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
        ).confidence_interval
        error = values.std() / np.sqrt(300)
        np.testing.assert_allclose(got, scipys, atol=0.15 * error)
        theory = values.mean() + 1.96 * error * np.asarray([-1, 1])
        np.testing.assert_allclose(got, theory, atol=0.25 * error)
        self.assertEqual(got, metrics.bootstrap_interval(values, resamples=4000))
        self.assertNotEqual(got, metrics.bootstrap_interval(values, resamples=4000, seed=1))

    @parameterized.parameters((2, 80, 1), (2, 6, 8), (3, 60, 2))
    def test_classification_equals_scikit_learn_on_each_resample(self, classes, count, decimals):
        probabilities, labels = random_classes(count, classes, 1, decimals)
        got = metrics.classification_resamples(
            probabilities, labels, class_names=names(classes), threshold=0.4, seed=5, resamples=15
        )
        drawn = np.random.default_rng(5).integers(0, count, (15, count))
        rows = [sklearn_classification(probabilities[i], labels[i], 0.4) for i in drawn]
        self.assertEqual(list(got), list(rows[0]))
        for name, values in got.items():
            interval = metrics.percentile_interval(values)
            want = np.nanpercentile([row[name] for row in rows], (2.5, 97.5))
            np.testing.assert_allclose(interval, want, atol=1e-12, err_msg=name)

    def test_summarize(self):
        got = metrics.summarize(
            {
                "dice": np.asarray([0.5, 0.7, 0.9]),
                "hd_mm": np.asarray([np.nan, 4.0, np.nan]),
                "ssim": np.full(3, np.nan),
            }
        )
        self.assertEqual([got[name]["n"] for name in ("dice", "hd_mm", "ssim")], [3, 1, 0])
        self.assertAlmostEqual(got["dice"]["mean"], 0.7)
        self.assertAlmostEqual(got["dice"]["std"], np.sqrt(0.08 / 3))
        # One resample in 27 repeats the worst image three times.
        np.testing.assert_allclose(got["dice"]["ci95"], (0.5, 0.9))
        self.assertEqual(got["hd_mm"], {"mean": 4.0, "std": 0.0, "ci95": (4.0, 4.0), "n": 1})
        self.assertTrue(np.isnan([got["ssim"]["mean"], *got["ssim"]["ci95"]]).all())


if __name__ == "__main__":
    absltest.main()
