"""The training step of every method, how it is spread over devices, and the loop around it."""

from multimix_jax.training import machine, optimizer, parallel
from multimix_jax.training.step import make_train_step

__all__ = ["machine", "make_train_step", "optimizer", "parallel"]
