"""Tests of multimix_jax.evaluation.segmentation."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from multimix_jax.evaluation import geometry
from multimix_jax.evaluation.segmentation import segmentation_metrics

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


def check(got, **want):
    for name, value in want.items():
        assert got[name] == pytest.approx(value, abs=5e-8), name


def test_by_hand():
    # Squares of 4 x 4, one column apart: 12 of 16 pixels in common. Of the 12 pixels of a
    # ring 6 lie on the other ring; the rest are a pixel away, 4 along a row, 2 along a column.
    prediction, truth = square(2, 3), square(2, 2)
    got = segmentation_metrics(prediction, truth, spacing=(2.0, 3.0))
    check(got, dice=24 / 32, jaccard=12 / 20, precision=12 / 16, recall=12 / 16)
    check(got, hd=1, hd95=1, assd=6 / 12, ahd=6 / 12)
    check(got, hd_mm=3, hd95_mm=3, assd_mm=16 / 12, ahd_mm=16 / 12)


def test_precision_is_of_the_prediction():
    got = segmentation_metrics(square(2, 2, side=2), square(2, 2))
    check(got, dice=8 / 20, jaccard=4 / 16, precision=1, recall=4 / 16)


@pytest.mark.parametrize("spacing", [None, (1.4, 0.6)])
def test_distances_equal_brute_force(spacing):
    for seed in range(4):
        masks = random_blobs(seed)
        points = [np.argwhere(geometry.surface(m)) * (spacing or (1, 1)) for m in masks]
        matrix = cdist(*points)
        there, back = matrix.min(1), matrix.min(0)
        got = segmentation_metrics(*masks, spacing=spacing)
        suffix = "_mm" if spacing else ""
        want = {
            "hd": max(there.max(), back.max()),
            "hd95": max(np.quantile(there, 0.95), np.quantile(back, 0.95)),
            "assd": (there.sum() + back.sum()) / (len(there) + len(back)),
            "ahd": max(there.mean(), back.mean()),
        }
        check(got, **{name + suffix: value for name, value in want.items()})


def test_ssim_equals_a_loop_over_windows():
    prediction, truth = random_blobs(0, (16, 18)).astype(float)
    values = []
    for y in range(16 - 6):
        for x in range(18 - 6):
            p, t = (m[y : y + 7, x : x + 7].ravel() for m in (prediction, truth))
            (vp, cov), (_, vt) = np.cov(p, t)
            luminance = (2 * p.mean() * t.mean() + 1e-4) / (p.mean() ** 2 + t.mean() ** 2 + 1e-4)
            values.append(luminance * (2 * cov + 9e-4) / (vp + vt + 9e-4))
    got = segmentation_metrics(prediction > 0, truth > 0)
    assert got["ssim"] == pytest.approx(np.mean(values), abs=5e-8)


@pytest.mark.parametrize("spacing", [None, (0.0, 0.0), (0.5, 2.0)])
def test_equal_masks_and_empty_ones(spacing):
    empty, full = np.zeros((9, 12), bool), np.ones((9, 12), bool)
    units = {"": np.hypot(9, 12)}
    if spacing == (0.5, 2.0):
        units["_mm"] = np.hypot(4.5, 24)
    for pair, overlap in (((empty, empty), 1), ((full, full), 1), ((empty, full), 0)):
        for masks in (pair, pair[::-1]):
            got = segmentation_metrics(*masks, spacing=spacing)
            keys = {*OVERLAPS, "ssim", *(d + unit for d in DISTANCES for unit in units)}
            assert set(got) == keys
            check(got, **dict.fromkeys(OVERLAPS, overlap))
            for unit, diagonal in units.items():
                distance = 0 if overlap else diagonal
                check(got, **{d + unit: distance for d in DISTANCES})
            if overlap:
                assert got["ssim"] == pytest.approx(1, abs=5e-8)


def test_volumes():
    truth = np.zeros((8, 9, 10), bool)
    truth[2:6, 2:6, 2:6] = True
    got = segmentation_metrics(np.roll(truth, 2, 0), truth, spacing=(3.0, 1.0, 1.0))
    check(got, dice=0.5, hd=2, hd_mm=6)


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        (np.full((8, 8), 0.3), "prediction is float64, expected bool"),
        (np.ones((8, 9), bool), r"\(8, 9\), but truth is \(8, 8\)"),
    ],
)
def test_wrong_masks_are_refused(prediction, words):
    with pytest.raises(ValueError, match=words):
        segmentation_metrics(prediction, np.ones((8, 8), bool))


def test_too_small_for_ssim():
    mask = np.ones((8, 8, 1), bool)
    with pytest.raises(ValueError, match="7 pixels a side"):
        segmentation_metrics(mask, mask)


def test_a_spacing_of_another_number_of_axes_is_refused():
    mask = np.ones((8, 8), bool)
    with pytest.raises(ValueError, match="expected 2 numbers"):
        segmentation_metrics(mask, mask, spacing=(1.0, 1.0, 1.0))
