"""Tests of multimix_jax.evaluation.intervals."""

import numpy as np
import pytest
from scipy import stats

from multimix_jax.evaluation.intervals import bootstrap_interval, summarize


def test_mean_agrees_with_scipy_and_theory():
    values = np.random.default_rng(0).gamma(2.0, size=300)
    got = bootstrap_interval(values, resamples=4000)
    scipys = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    error = values.std() / np.sqrt(300)
    np.testing.assert_allclose(got, scipys, atol=0.15 * error)
    theory = values.mean() + 1.96 * error * np.asarray([-1, 1])
    np.testing.assert_allclose(got, theory, atol=0.25 * error)
    assert got == bootstrap_interval(values, resamples=4000)
    assert got != bootstrap_interval(values, resamples=4000, seed=1)


def test_summarize():
    got = summarize(
        {
            "dice": np.asarray([0.5, 0.7, 0.9]),
            "hd_mm": np.asarray([np.nan, 4.0, np.nan]),
            "ssim": np.full(3, np.nan),
        }
    )
    assert [got[name]["n"] for name in ("dice", "hd_mm", "ssim")] == [3, 1, 0]
    assert got["dice"]["mean"] == pytest.approx(0.7, abs=5e-8)
    assert got["dice"]["std"] == pytest.approx(np.sqrt(0.08 / 3), abs=5e-8)
    # One resample in 27 repeats the worst image three times.
    np.testing.assert_allclose(got["dice"]["ci95"], (0.5, 0.9))
    assert got["hd_mm"] == {"mean": 4.0, "std": 0.0, "ci95": (4.0, 4.0), "n": 1}
    assert np.isnan([got["ssim"]["mean"], *got["ssim"]["ci95"]]).all()
