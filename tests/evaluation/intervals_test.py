"""Tests of multimix_jax.evaluation.intervals."""

import numpy as np
import pytest
from scipy import stats

from multimix_jax.evaluation.intervals import mean_resamples, percentile_interval, summarize


def interval(values, **options):
    return percentile_interval(mean_resamples(values, **options))


def test_mean_agrees_with_scipy_and_theory():
    values = np.random.default_rng(0).gamma(2.0, size=300)
    got = interval(values, resamples=4000)
    scipys = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    error = values.std() / np.sqrt(300)
    np.testing.assert_allclose(got, scipys, atol=0.15 * error)
    theory = values.mean() + 1.96 * error * np.asarray([-1, 1])
    np.testing.assert_allclose(got, theory, atol=0.25 * error)
    assert got == interval(values, resamples=4000)
    assert got != interval(values, resamples=4000, seed=1)


def test_summarize():
    dice = summarize(np.asarray([0.5, 0.7, 0.9]))
    assert dice["n"] == 3
    assert dice["mean"] == pytest.approx(0.7, abs=5e-8)
    assert dice["std"] == pytest.approx(np.sqrt(0.08 / 3), abs=5e-8)
    # One resample in 27 repeats the worst image three times.
    np.testing.assert_allclose(dice["ci95"], (0.5, 0.9))


def test_images_without_a_value_are_left_out():
    distance = summarize(np.asarray([np.nan, 4.0, np.nan]))
    assert distance == {"mean": 4.0, "std": 0.0, "ci95": (4.0, 4.0), "n": 1}
    nothing = summarize(np.full(3, np.nan))
    assert nothing["n"] == 0
    assert np.isnan([nothing["mean"], *nothing["ci95"]]).all()
