import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from multimix_jax.errors import UsageError
from multimix_jax.inference.windows import (
    Windows,
    make_sliding_window,
    window_starts,
    window_weights,
)


def predict(scale, patches):
    """Depends on where in its patch a pixel lies, so that the windows matter."""
    ramp = jnp.arange(patches.shape[2], dtype=jnp.float32)[:, None]
    ramp = ramp.reshape(1, 1, -1, *[1] * (patches.ndim - 3))
    return {"mask": scale * patches * ramp, "twice": jnp.concatenate([patches] * 2, -1)}


def by_hand(image, patch, stride, weights):
    """A loop over windows, one at a time, for an image at least as large as the patch."""
    total = np.zeros(image.shape[:-1])
    sums = np.zeros(image.shape)
    axes = []
    for size, side, step in zip(image.shape, patch, stride):
        axes.append(sorted({min(step * i, size - side) for i in range(size)}))
    for start in itertools.product(*axes):
        window = tuple(slice(s, s + side) for s, side in zip(start, patch))
        values = np.asarray(predict(2.0, image[window][None])["mask"])[0]
        sums[window] += values * weights[..., None]
        total[window] += weights
    return sums / total[..., None]


def test_starts_by_hand():
    assert window_starts([10], [4], [3]).ravel().tolist() == [0, 3, 6]
    assert window_starts([11], [4], [3]).ravel().tolist() == [0, 3, 6, 7]
    assert window_starts([3], [4], [3]).ravel().tolist() == [0]
    assert window_starts([5, 4], [4, 4], [1, 1]).tolist() == [[0, 0], [1, 0]]


def test_gaussian_is_highest_in_the_middle():
    weights = window_weights((9, 16), "gaussian")
    assert (weights.shape, weights.max()) == ((9, 16), 1)
    assert np.unravel_index(weights.argmax(), weights.shape)[0] == 4
    assert weights[4, 7] / weights[4, 3] == pytest.approx(np.exp((4.5**2 - 0.5**2) / 8), abs=5e-5)
    assert weights.min() >= 1e-3
    np.testing.assert_array_equal(weights, weights[::-1, ::-1])


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("weights", ["uniform", "gaussian"])
@pytest.mark.parametrize(
    ("sides", "patch", "stride"),
    [((13, 9), (6, 5), (4, 3)), ((7, 9, 6), (4, 5, 6), (2, 3, 1))],
)
def test_equals_a_loop(sides, patch, stride, weights, batch_size):
    image = np.random.default_rng(0).normal(size=(*sides, 1)).astype(np.float32)
    whole = make_sliding_window(predict, Windows(patch, stride, batch_size, weights))
    got = whole(2.0, image)
    want = by_hand(image, patch, stride, window_weights(patch, weights))
    np.testing.assert_allclose(got["mask"], want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["twice"], np.concatenate([image] * 2, -1), atol=1e-5)


@pytest.mark.parametrize("sides", [(3, 4), (3, 9), (6, 5)])
def test_smaller_than_the_patch(sides):
    image = np.random.default_rng(0).normal(size=(*sides, 1)).astype(np.float32)
    whole = make_sliding_window(predict, Windows((6, 5), (2, 2)))
    got = whole(1.0, image)
    assert got["mask"].shape == image.shape
    np.testing.assert_allclose(got["twice"][..., :1], image, atol=1e-5)


def test_compiled_once_for_images_of_about_one_size():
    traces = []

    def counted(variables, patches):
        traces.append(1)
        return predict(variables, patches)

    whole = make_sliding_window(counted, Windows((4, 4), (2, 2)))
    whole(1.0, np.zeros((8, 6, 1), np.float32))
    before = len(traces)
    for sides in ((8, 8), (5, 7), (7, 8)):
        whole(1.0, np.zeros((*sides, 1), np.float32))
    assert len(traces) == before


def test_errors():
    for stride in ((5, 2), (0, 1), (2,)):
        with pytest.raises(UsageError, match=r"stride=.* must be 1 to \(4, 4\) .*window.stri"):
            Windows((4, 4), stride)
    with pytest.raises(UsageError, match="weights='flat' is unknown"):
        Windows((4, 4), (2, 2), weights="flat")
