import jax
import numpy as np
import pytest

from multimix_jax.ops import dropout


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.1])
def test_keeps_as_often_as_the_reference(rate):
    keys = jax.random.split(jax.random.key(0), 4)
    got, want = (
        np.asarray(draw(keys, (25, 31, 3), rate))
        for draw in (dropout.keep_mask, dropout.keep_mask_reference)
    )
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    deviation = np.sqrt(2 * rate * (1 - rate) / got.size)
    assert got.mean() == pytest.approx(want.mean(), rel=0, abs=4 * deviation + 1 / 512)


@pytest.mark.parametrize(("rate", "want"), [(0.5, 0.5), (0.25, 0.25), (0.1, 26 / 256)])
def test_rounded(rate, want):
    assert dropout.rounded(rate) == want
