import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from multimix_jax.augment import intensity

RAMP = np.broadcast_to(np.linspace(0, 1, 32, dtype=np.float32)[None, :, None], (16, 32, 1))


def drawn(change, image, count=200):
    """[count, *image.shape], each by a key of its own."""
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.jit(jax.vmap(change, (0, None)))(keys, image))


def test_curve_keeps_order_and_ends():
    curves = drawn(intensity._curve, RAMP[0, :, 0], 50)
    assert np.diff(curves, axis=1).min() >= 0
    np.testing.assert_allclose(curves[:, 0], 0, atol=1e-6)
    np.testing.assert_allclose(curves[:, -1], 1, atol=1e-6)
    assert np.abs(curves - RAMP[0, :, 0]).max() > 0.2


def test_smooth_is_scipys():
    image = np.random.default_rng(0).uniform(size=(9, 7, 2)).astype(np.float32)
    for axis in (0, 1):
        want = ndimage.correlate1d(image, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
        np.testing.assert_allclose(intensity._smooth(image, axis), want, rtol=1e-5)


def test_gamma_keeps_black_and_white():
    grey = drawn(intensity._gamma, jnp.asarray([0.0, 0.5, 1.0]))
    np.testing.assert_array_equal(grey[:, 0], 0)
    np.testing.assert_array_equal(grey[:, 2], 1)
    gamma = np.log(np.log(grey[:, 1]) / np.log(0.5))
    assert -0.5 <= gamma.min() <= -0.45
    assert 0.45 <= gamma.max() <= 0.5


def test_contrast_and_brightness():
    grey = drawn(intensity._contrast, jnp.asarray([0.4, 0.5, 0.6]))
    contrast = np.log((grey[:, 2] - grey[:, 0]) / 0.2)
    assert -0.4 <= contrast.min() <= -0.36
    assert 0.36 <= contrast.max() <= 0.4
    assert 0.14 <= np.abs(grey[:, 1] - 0.5).max() <= 0.15 + 1e-6


def test_exposure_is_smooth():
    field = drawn(intensity._exposure, jnp.zeros((32, 32, 1)))[..., 0]
    assert 0.06 <= field.std() <= 0.13
    assert np.abs(field.mean()) < 0.02
    assert np.diff(field, axis=1).std() < 0.15 * field.std()


def test_sharpening_leaves_flat_parts_and_a_blur_lowers_edges():
    flat = jnp.full((8, 8, 1), 0.3)
    np.testing.assert_allclose(drawn(intensity._sharpen, flat, 5), np.stack([flat] * 5), atol=1e-6)
    # [1, 2, 1] / 4 halves the step from one pixel to the next.
    edge = jnp.broadcast_to(jnp.where(jnp.arange(8) < 4, 0.0, 1.0)[None, :, None], (8, 8, 1))
    edges = drawn(intensity._sharpen, edge)
    step = edges[:, 4, 4, 0] - edges[:, 4, 3, 0]
    assert 0.5 <= step.min() <= 0.55
    assert 1.7 <= step.max() <= 1.75


def test_noise():
    noise = drawn(intensity._noise, jnp.zeros((32, 32, 1)))
    deviation = noise.std(axis=(1, 2, 3))
    assert 0.045 <= deviation.max() <= 0.055
    assert deviation.min() < 0.005
    assert np.abs(np.corrcoef(noise[0, :-1].ravel(), noise[0, 1:].ravel())[0, 1]) < 0.1


@pytest.mark.parametrize("channels", [1, 3])
def test_stays_in_range_and_differs(channels):
    image = np.random.default_rng(0).integers(0, 256, (16, 24, channels)).astype(np.uint8)
    views = drawn(intensity.augment_intensity, image, 64)
    assert (views.shape, views.dtype) == ((64, *image.shape), np.float32)
    assert np.isfinite(views).all()
    assert 0 <= views.min() <= 1
    assert 254 <= views.max() <= 255
    changed = (np.abs(views - image) > 1e-3).any(axis=(1, 2, 3))
    # Each of six changes is left out with probability 1/2.
    assert 0.9 <= changed.mean() <= 1.0


def test_black_and_white_images_stay_finite():
    for value in (0, 255):
        image = np.full((16, 16, 1), value, np.uint8)
        assert np.isfinite(drawn(intensity.augment_intensity, image, 64)).all()


def test_cutout():
    image = np.full((20, 40, 1), 7.0, np.float32)
    views = drawn(intensity.cutout, image, 400)
    assert set(np.unique(views)) == {7.0, 127.5}
    box = views[..., 0] > 100
    assert 0.4 <= box.any(axis=(1, 2)).mean() <= 0.55
    rows, columns = box.any(axis=2).sum(axis=1), box.any(axis=1).sum(axis=1)
    assert (rows * columns).tolist() == box.sum(axis=(1, 2)).tolist()  # boxes
    assert 6 <= rows.max() <= 8
    assert 12 <= columns.max() <= 16
