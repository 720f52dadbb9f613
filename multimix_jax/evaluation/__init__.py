"""Reported numbers."""

from multimix_jax.evaluation import calibration, classification, intervals, segmentation

__all__ = ["calibration", "classification", "intervals", "segmentation"]
