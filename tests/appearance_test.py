import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from scipy import ndimage

from multimix_jax import appearance

RAMP = np.broadcast_to(np.linspace(0, 1, 32, dtype=np.float32)[None, :, None], (16, 32, 1))


class ChangesTest(parameterized.TestCase):
    def test_curve_keeps_order_and_ends(self):
        curves = jax.jit(jax.vmap(appearance._curve, (0, None)))(
            jax.random.split(jax.random.key(0), 50), RAMP[0, :, 0]
        )
        curves = np.asarray(curves)
        self.assertGreaterEqual(np.diff(curves, axis=1).min(), 0)
        np.testing.assert_allclose(curves[:, 0], 0, atol=1e-6)
        np.testing.assert_allclose(curves[:, -1], 1, atol=1e-6)
        self.assertGreater(np.abs(curves - RAMP[0, :, 0]).max(), 0.2)

    def test_smooth_is_scipys(self):
        image = np.random.default_rng(0).uniform(size=(9, 7, 2)).astype(np.float32)
        for axis in (0, 1):
            want = ndimage.correlate1d(image, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
            np.testing.assert_allclose(appearance._smooth(image, axis), want, rtol=1e-5)

    def test_sharpening_leaves_flat_parts_and_a_blur_lowers_edges(self):
        flat = jnp.full((8, 8, 1), 0.3)
        for seed in range(5):
            key = jax.random.key(seed)
            np.testing.assert_allclose(appearance._sharpen(key, flat), flat, atol=1e-6)


class AppearanceTest(parameterized.TestCase):
    @parameterized.parameters(1, 3)
    def test_stays_in_range_and_differs(self, channels):
        image = np.random.default_rng(0).integers(0, 256, (16, 24, channels)).astype(np.uint8)
        keys = jax.random.split(jax.random.key(0), 64)
        views = np.asarray(jax.jit(jax.vmap(appearance.draw_appearance, (0, None)))(keys, image))
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
            keys = jax.random.split(jax.random.key(0), 64)
            views = jax.jit(jax.vmap(appearance.draw_appearance, (0, None)))(keys, image)
            self.assertTrue(np.isfinite(views).all())

    def test_hole(self):
        image = np.full((20, 40, 1), 7.0, np.float32)
        keys = jax.random.split(jax.random.key(0), 400)
        views = np.asarray(jax.jit(jax.vmap(appearance.cut_out, (0, None)))(keys, image))
        self.assertEqual(set(np.unique(views)), {7.0, 127.5})
        hole = views[..., 0] > 100
        self.assertBetween(hole.any(axis=(1, 2)).mean(), 0.4, 0.55)
        rows, columns = hole.any(axis=2).sum(axis=1), hole.any(axis=1).sum(axis=1)
        self.assertEqual((rows * columns).tolist(), hole.sum(axis=(1, 2)).tolist())  # boxes
        self.assertBetween(rows.max(), 6, 8)
        self.assertBetween(columns.max(), 12, 16)


if __name__ == "__main__":
    absltest.main()
