"""Reported numbers."""

from multimix_jax.evaluation import calibration, metrics

__all__ = ["calibration", "metrics"]
