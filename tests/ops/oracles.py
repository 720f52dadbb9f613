"""How a fast operation is compared with its reference."""

import jax
import numpy as np

from tests.tiny import assert_near


def normal(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def gradients(operation, gradient, *operands):
    return jax.jit(lambda *operands: jax.vjp(operation, *operands)[1](gradient))(*operands)


def assert_equals_reference(fast, reference, *operands):
    """In value, and in the gradient by each operand."""
    want = jax.jit(reference)(*operands)
    assert_near(jax.jit(fast)(*operands), want, tolerance=1e-5)
    (gradient,) = normal(want.shape)
    pairs = zip(*(gradients(f, gradient, *operands) for f in (fast, reference)), strict=True)
    for got, want in pairs:
        assert_near(got, want, tolerance=1e-5)
