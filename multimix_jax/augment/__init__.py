"""Augmentation: random changes of one image; a batch is a vmap, one key each."""

from multimix_jax.augment import intensity, randaugment, spatial

__all__ = ["intensity", "randaugment", "spatial"]
