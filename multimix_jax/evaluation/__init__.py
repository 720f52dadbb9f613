"""Reported numbers."""

from multimix_jax.evaluation import calibration, classification, curves, intervals, segmentation

__all__ = ["calibration", "classification", "curves", "intervals", "segmentation"]
