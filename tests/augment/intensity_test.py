import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from scipy import ndimage

from multimix_jax.augment import intensity

RAMP = np.broadcast_to(np.linspace(0, 1, 32, dtype=np.float32)[None, :, None], (16, 32, 1))


def drawn(change, image, count=200):
    """[count, *image.shape], each by a key of its own."""
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.jit(jax.vmap(change, (0, None)))(keys, image))


class ChangesTest(parameterized.TestCase):
    def test_curve_keeps_order_and_ends(self):
        curves = drawn(intensity._curve, RAMP[0, :, 0], 50)
        self.assertGreaterEqual(np.diff(curves, axis=1).min(), 0)
        np.testing.assert_allclose(curves[:, 0], 0, atol=1e-6)
        np.testing.assert_allclose(curves[:, -1], 1, atol=1e-6)
        self.assertGreater(np.abs(curves - RAMP[0, :, 0]).max(), 0.2)

    def test_smooth_is_scipys(self):
        image = np.random.default_rng(0).uniform(size=(9, 7, 2)).astype(np.float32)
        for axis in (0, 1):
            want = ndimage.correlate1d(image, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
            np.testing.assert_allclose(intensity._smooth(image, axis), want, rtol=1e-5)

    def test_gamma_keeps_black_and_white(self):
        grey = drawn(intensity._gamma, jnp.asarray([0.0, 0.5, 1.0]))
        np.testing.assert_array_equal(grey[:, 0], 0)
        np.testing.assert_array_equal(grey[:, 2], 1)
        gamma = np.log(np.log(grey[:, 1]) / np.log(0.5))
        self.assertBetween(gamma.min(), -0.5, -0.45)
        self.assertBetween(gamma.max(), 0.45, 0.5)

    def test_contrast_and_brightness(self):
        grey = drawn(intensity._contrast, jnp.asarray([0.4, 0.5, 0.6]))
        contrast = np.log((grey[:, 2] - grey[:, 0]) / 0.2)
        self.assertBetween(contrast.min(), -0.4, -0.36)
        self.assertBetween(contrast.max(), 0.36, 0.4)
        self.assertBetween(np.abs(grey[:, 1] - 0.5).max(), 0.14, 0.15 + 1e-6)

    def test_exposure_is_smooth(self):
        field = drawn(intensity._exposure, jnp.zeros((32, 32, 1)))[..., 0]
        self.assertBetween(field.std(), 0.06, 0.13)
        self.assertLess(np.abs(field.mean()), 0.02)
        self.assertLess(np.diff(field, axis=1).std(), 0.15 * field.std())

    def test_sharpening_leaves_flat_parts_and_a_blur_lowers_edges(self):
        flat = jnp.full((8, 8, 1), 0.3)
        np.testing.assert_allclose(
            drawn(intensity._sharpen, flat, 5), np.stack([flat] * 5), atol=1e-6
        )
        # [1, 2, 1] / 4 halves the step from one pixel to the next.
        edge = jnp.broadcast_to(jnp.where(jnp.arange(8) < 4, 0.0, 1.0)[None, :, None], (8, 8, 1))
        edges = drawn(intensity._sharpen, edge)
        step = edges[:, 4, 4, 0] - edges[:, 4, 3, 0]
        self.assertBetween(step.min(), 0.5, 0.55)
        self.assertBetween(step.max(), 1.7, 1.75)

    def test_noise(self):
        noise = drawn(intensity._noise, jnp.zeros((32, 32, 1)))
        deviation = noise.std(axis=(1, 2, 3))
        self.assertBetween(deviation.max(), 0.045, 0.055)
        self.assertLess(deviation.min(), 0.005)
        self.assertLess(np.abs(np.corrcoef(noise[0, :-1].ravel(), noise[0, 1:].ravel())[0, 1]), 0.1)


class AppearanceTest(parameterized.TestCase):
    @parameterized.parameters(1, 3)
    def test_stays_in_range_and_differs(self, channels):
        image = np.random.default_rng(0).integers(0, 256, (16, 24, channels)).astype(np.uint8)
        views = drawn(intensity.draw_appearance, image, 64)
        self.assertEqual((views.shape, views.dtype), ((64, *image.shape), np.float32))
        self.assertTrue(np.isfinite(views).all())
        self.assertBetween(views.min(), 0, 1)
        self.assertBetween(views.max(), 254, 255)
        changed = (np.abs(views - image) > 1e-3).any(axis=(1, 2, 3))
        # Each of six changes is left out with probability 1/2.
        self.assertBetween(changed.mean(), 0.9, 1.0)

    def test_black_and_white_images_stay_finite(self):
        for value in (0, 255):
            image = np.full((16, 16, 1), value, np.uint8)
            self.assertTrue(np.isfinite(drawn(intensity.draw_appearance, image, 64)).all())

    def test_hole(self):
        image = np.full((20, 40, 1), 7.0, np.float32)
        views = drawn(intensity.cut_out, image, 400)
        self.assertEqual(set(np.unique(views)), {7.0, 127.5})
        hole = views[..., 0] > 100
        self.assertBetween(hole.any(axis=(1, 2)).mean(), 0.4, 0.55)
        rows, columns = hole.any(axis=2).sum(axis=1), hole.any(axis=1).sum(axis=1)
        self.assertEqual((rows * columns).tolist(), hole.sum(axis=(1, 2)).tolist())  # boxes
        self.assertBetween(rows.max(), 6, 8)
        self.assertBetween(columns.max(), 12, 16)


if __name__ == "__main__":
    absltest.main()
