from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import ndimage

from multimix_jax.augment import spatial

draw = jax.jit(spatial.draw_pose, static_argnums=(1, 2, 3))


def image_of(height, width, channels=1):
    return np.random.default_rng(0).uniform(0, 255, (height, width, channels)).astype(np.float32)


def plain(height, width):
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return rows, columns


def drawn(count, strength, side=32):
    keys = jax.random.split(jax.random.key(0), count)
    draw = jax.jit(jax.vmap(lambda key: spatial.draw_pose(key, side, side, strength)))
    return jax.tree.map(np.asarray, draw(keys))


def fit(poses):
    """The affine map [B,3,2] of coordinates from -1 to 1 nearest to each pose, and what is left."""
    side = poses.rows.shape[1]
    points = (2 * np.stack([*plain(side, side)], -1).reshape(-1, 2) + 1) / side - 1
    design = np.concatenate([points, np.ones((len(points), 1))], 1)
    target = np.stack([poses.rows, poses.columns], -1).reshape(len(poses.rows), -1, 2)
    target = (2 * target + 1) / side - 1
    affine = np.linalg.pinv(design) @ target
    return affine, target - design @ affine


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
        where = spatial.Pose(jnp.float32(rows), jnp.float32(columns), jnp.asarray(black))
        got = jax.jit(spatial.apply_pose)(where, image)
        np.testing.assert_allclose(got, np.stack(want, -1), atol=2e-3)

    def test_no_pose_changes_nothing(self):
        image = image_of(8, 16).astype(np.uint8)
        where = spatial.Pose(*plain(8, 16), jnp.asarray(True))
        np.testing.assert_array_equal(spatial.apply_pose(where, image), image)

    def test_other_sides(self):
        where = spatial.Pose(*plain(8, 16), jnp.asarray(True))
        with pytest.raises(ValueError, match=r"pose is for images of \(8, 16\), the image is \(16"):
            spatial.apply_pose(where, image_of(16, 8))


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

    @parameterized.parameters(0.3, 1.0)
    def test_within_what_is_promised(self, strength):
        """Without the elastic field: stretched, turned, sheared, shifted and maybe mirrored."""
        with mock.patch.object(spatial, "ELASTIC", 0.0):
            poses = drawn(500, strength)
        affine, beside = fit(poses)
        np.testing.assert_allclose(beside, 0, atol=1e-4)
        matrix = affine[:, :2].transpose(0, 2, 1)
        area = np.linalg.det(matrix)
        self.assertBetween((area < 0).mean(), 0.4, 0.6)
        matrix[..., 1] *= np.sign(area)[:, None]
        area = np.abs(area)
        # diag(s, t) [[cos, -sin], [sin, cos]] [[1, 0], [k, 1]]
        angle = np.arcsin(-2 * matrix[:, 0, 1] * matrix[:, 1, 1] / area) / 2
        stretch = matrix[:, 1, 1] / np.cos(angle)
        shear = (matrix[:, 1, 0] - stretch * np.sin(angle)) / matrix[:, 1, 1]
        for found, bound in (
            (np.rad2deg(angle), 20.0),
            (np.log(area) / 2, 0.3),
            (np.log(area / stretch**2), 0.15),
            (shear, 0.1),
            (affine[:, 2, 0], 0.15),
            (affine[:, 2, 1], 0.15),
        ):
            for side in (found, -found):
                self.assertBetween(side.max(), 0.93 * strength * bound, 1.001 * strength * bound)
        self.assertBetween(poses.black.mean(), 0.4, 0.6)

    def test_mask_moves_with_its_image(self):
        y, x = np.mgrid[:32, :32]
        mask = (((y - 14) ** 2 + (x - 18) ** 2) < 64).astype(np.float32)[..., None]
        where = draw(jax.random.key(3), 32, 32, 1.0)
        moved = np.asarray(spatial.apply_pose(where, 255 * mask))
        np.testing.assert_allclose(moved, 255 * spatial.apply_pose(where, mask), atol=1e-3)
        self.assertGreater(np.abs(moved - 255 * mask).max(), 100)

    def test_the_elastic_field_is_slight(self):
        _, beside = fit(drawn(100, 1.0))
        self.assertBetween(beside.std(), 0.2 * spatial.ELASTIC, spatial.ELASTIC)


if __name__ == "__main__":
    absltest.main()
