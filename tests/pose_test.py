import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import ndimage

from multimix_jax import pose

draw = jax.jit(pose.draw_pose, static_argnums=(1, 2, 3))


def image_of(height, width, channels=1):
    return np.random.default_rng(0).uniform(0, 255, (height, width, channels)).astype(np.float32)


def plain(height, width):
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return rows, columns


class ApplyTest(parameterized.TestCase):
    @parameterized.product(black=(True, False), channels=(1, 3))
    def test_interpolates_as_scipy_does(self, black, channels):
        image = image_of(12, 20, channels)
        rng = np.random.default_rng(1)
        rows, columns = rng.uniform(-8, 20, (12, 20)), rng.uniform(-8, 28, (12, 20))
        # 'constant' of SciPy knows nothing beyond the last pixel's centre; its grid form fades out.
        mode = "grid-constant" if black else "nearest"
        want = [
            ndimage.map_coordinates(plane, [rows, columns], np.float64, order=1, mode=mode)
            for plane in np.moveaxis(image.astype(np.float64), -1, 0)
        ]
        where = pose.Pose(jnp.float32(rows), jnp.float32(columns), jnp.asarray(black))
        got = jax.jit(pose.apply_pose)(where, image)
        np.testing.assert_allclose(got, np.stack(want, -1), atol=2e-3)

    def test_no_pose_changes_nothing(self):
        image = image_of(8, 16).astype(np.uint8)
        where = pose.Pose(*plain(8, 16), jnp.asarray(True))
        np.testing.assert_array_equal(pose.apply_pose(where, image), image)

    def test_other_sides(self):
        where = pose.Pose(*plain(8, 16), jnp.asarray(True))
        with pytest.raises(ValueError, match=r"pose is for images of \(8, 16\), the image is \(16"):
            pose.apply_pose(where, image_of(16, 8))


class DrawTest(parameterized.TestCase):
    def test_strength_zero_is_at_most_mirrored(self):
        rows, columns = plain(8, 16)
        seen = set()
        for seed in range(8):
            got = draw(jax.random.key(seed), 8, 16, 0.0)
            np.testing.assert_allclose(got.rows, rows, atol=1e-4)
            mirrored = bool(got.columns[0, 0] > got.columns[0, -1])
            np.testing.assert_allclose(
                got.columns, columns[:, ::-1] if mirrored else columns, atol=1e-4
            )
            seen.add((mirrored, bool(got.black)))
        self.assertGreater(len(seen), 2)

    def test_within_what_is_promised(self):
        """Without the elastic field the pose is affine: its matrix has the ranges of the text."""
        keys = jax.random.split(jax.random.key(0), 500)
        side = 32
        poses = jax.jit(jax.vmap(lambda key: pose.draw_pose(key, side, side)))(keys)
        poses = jax.tree.map(np.asarray, poses)
        points = np.stack([*plain(side, side)], -1).reshape(-1, 2)
        design = np.concatenate([(2 * points + 1) / side - 1, np.ones((len(points), 1))], 1)
        target = np.stack([poses.rows, poses.columns], -1).reshape(500, -1, 2)
        target = (2 * target + 1) / side - 1
        affine = np.linalg.pinv(design) @ target  # [500,3,2]
        area = np.abs(np.linalg.det(affine[:, :2]))
        noise = 3 * pose.ELASTIC
        self.assertBetween(np.log(area).max() / 2, 0.25, pose.LOG_SCALE + noise)
        self.assertBetween(-np.log(area).min() / 2, 0.25, pose.LOG_SCALE + noise)
        shift = np.abs(affine[:, 2]).max()
        self.assertBetween(shift, 0.8 * pose.SHIFT, pose.SHIFT + noise)
        mirrored = (np.linalg.det(affine[:, :2]) < 0).mean()
        self.assertBetween(mirrored, 0.4, 0.6)
        self.assertBetween(poses.black.mean(), 0.4, 0.6)

    def test_mask_moves_with_its_image(self):
        y, x = np.mgrid[:32, :32]
        mask = (((y - 14) ** 2 + (x - 18) ** 2) < 64).astype(np.float32)[..., None]
        where = draw(jax.random.key(3), 32, 32, 1.0)
        moved = np.asarray(pose.apply_pose(where, 255 * mask))
        np.testing.assert_allclose(moved, 255 * pose.apply_pose(where, mask), atol=1e-3)
        self.assertGreater(np.abs(moved - 255 * mask).max(), 100)


if __name__ == "__main__":
    absltest.main()
