import jax
import numpy as np
import pytest

from multimix_jax.ops import strided
from tests.ops.oracles import assert_equals_reference, normal


@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (2, 4, 6, 8, 3), (2, 4, 6, 3), (2, 4, 2, 6, 3)])
@pytest.mark.parametrize("name", ["conv_halving", "conv_doubling"])
def test_equals_reference(shape, name):
    operands = normal(shape, (*[2] * (len(shape) - 2), 3, 5))
    fast, reference = getattr(strided, name), getattr(strided, f"{name}_reference")
    assert_equals_reference(fast, reference, *operands)


@pytest.mark.parametrize("shape", [(2, 3, 4, 3), (2, 2, 3, 4, 3)])
def test_doubling_pixel_by_pixel(shape):
    x, kernel = normal(shape, (*[2] * (len(shape) - 2), 3, 5))
    got = np.asarray(jax.jit(strided.conv_doubling)(x, kernel))
    for at in np.ndindex(*got.shape[1:-1]):
        tap = kernel[tuple(place % 2 for place in at)]
        want = x[(slice(None), *(place // 2 for place in at))] @ tap
        np.testing.assert_allclose(got[(slice(None), *at)], want, atol=1e-4)
