"""How a fast operation is compared with its reference."""

import jax
import numpy as np


def normal(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def assert_near(got, want):
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def gradients(operation, gradient, *operands):
    return jax.jit(lambda *operands: jax.vjp(operation, *operands)[1](gradient))(*operands)


def assert_equals_reference(fast, reference, *operands):
    """In value, and in the gradient by each operand."""
    want = jax.jit(reference)(*operands)
    assert_near(jax.jit(fast)(*operands), want)
    (gradient,) = normal(want.shape)
    pairs = zip(*(gradients(f, gradient, *operands) for f in (fast, reference)), strict=True)
    for got, want in pairs:
        assert_near(got, want)
