"""What trained networks predict."""

from multimix_jax.inference import predictor, saliency, windows

__all__ = ["predictor", "saliency", "windows"]
