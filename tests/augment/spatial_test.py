import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from multimix_jax.augment import spatial

draw = jax.jit(spatial.draw_transform, static_argnums=(1, 2, 3))


def image_of(height, width, channels=1):
    return np.random.default_rng(0).uniform(0, 255, (height, width, channels)).astype(np.float32)


def identity(height, width):
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return rows, columns


def drawn(count, strength, side=32):
    keys = jax.random.split(jax.random.key(0), count)
    draw = jax.jit(jax.vmap(lambda key: spatial.draw_transform(key, side, side, strength)))
    return jax.tree.map(np.asarray, draw(keys))


def fit(transforms):
    """The affine map [B,3,2] of coordinates from -1 to 1 nearest to each one, and the rest."""
    side = transforms.rows.shape[1]
    points = (2 * np.stack([*identity(side, side)], -1).reshape(-1, 2) + 1) / side - 1
    design = np.concatenate([points, np.ones((len(points), 1))], 1)
    target = np.stack([transforms.rows, transforms.columns], -1).reshape(
        len(transforms.rows), -1, 2
    )
    target = (2 * target + 1) / side - 1
    affine = np.linalg.pinv(design) @ target
    return affine, target - design @ affine


@pytest.mark.parametrize("black", (True, False))
@pytest.mark.parametrize("channels", (1, 3))
def test_interpolates_as_scipy_does(black, channels):
    image = image_of(12, 20, channels)
    rng = np.random.default_rng(1)
    rows, columns = rng.uniform(-8, 20, (12, 20)), rng.uniform(-8, 28, (12, 20))
    # 'constant' of SciPy knows nothing beyond the last pixel's centre; its grid form fades out.
    mode = "grid-constant" if black else "nearest"
    want = [
        ndimage.map_coordinates(plane, [rows, columns], np.float64, order=1, mode=mode)
        for plane in np.moveaxis(image.astype(np.float64), -1, 0)
    ]
    transform = spatial.SpatialTransform(
        jnp.float32(rows), jnp.float32(columns), jnp.asarray(black)
    )
    got = jax.jit(spatial.apply_transform)(transform, image)
    np.testing.assert_allclose(got, np.stack(want, -1), atol=2e-3)


def test_identity_changes_nothing():
    image = image_of(8, 16).astype(np.uint8)
    transform = spatial.SpatialTransform(*identity(8, 16), jnp.asarray(True))
    np.testing.assert_array_equal(spatial.apply_transform(transform, image), image)


def test_other_sides():
    transform = spatial.SpatialTransform(*identity(8, 16), jnp.asarray(True))
    with pytest.raises(
        ValueError, match=r"transform is for images of \(8, 16\), the image is \(16"
    ):
        spatial.apply_transform(transform, image_of(16, 8))


def test_strength_zero_is_at_most_flipped():
    rows, columns = identity(8, 16)
    combinations = set()
    for seed in range(8):
        got = draw(jax.random.key(seed), 8, 16, 0.0)
        np.testing.assert_allclose(got.rows, rows, atol=1e-4)
        flipped = bool(got.columns[0, 0] > got.columns[0, -1])
        np.testing.assert_allclose(got.columns, columns[:, ::-1] if flipped else columns, atol=1e-4)
        combinations.add((flipped, bool(got.black)))
    assert len(combinations) > 2


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_within_the_documented_ranges(strength, monkeypatch):
    """Without the elastic field: stretched, turned, sheared, shifted and maybe flipped."""
    monkeypatch.setattr(spatial, "ELASTIC", 0.0)
    transforms = drawn(500, strength)
    affine, rest = fit(transforms)
    np.testing.assert_allclose(rest, 0, atol=1e-4)
    matrix = affine[:, :2].transpose(0, 2, 1)
    area = np.linalg.det(matrix)
    assert 0.4 <= (area < 0).mean() <= 0.6
    matrix[..., 1] *= np.sign(area)[:, None]
    area = np.abs(area)
    # diag(s, t) [[cos, -sin], [sin, cos]] [[1, 0], [k, 1]]
    angle = np.arcsin(-2 * matrix[:, 0, 1] * matrix[:, 1, 1] / area) / 2
    stretch = matrix[:, 1, 1] / np.cos(angle)
    shear = (matrix[:, 1, 0] - stretch * np.sin(angle)) / matrix[:, 1, 1]
    for values, bound in (
        (np.rad2deg(angle), 20.0),
        (np.log(area) / 2, 0.3),
        (np.log(area / stretch**2), 0.15),
        (shear, 0.1),
        (affine[:, 2, 0], 0.15),
        (affine[:, 2, 1], 0.15),
    ):
        for side in (values, -values):
            assert 0.93 * strength * bound <= side.max() <= 1.001 * strength * bound
    assert 0.4 <= transforms.black.mean() <= 0.6


def test_mask_moves_with_its_image():
    y, x = np.mgrid[:32, :32]
    mask = (((y - 14) ** 2 + (x - 18) ** 2) < 64).astype(np.float32)[..., None]
    transform = draw(jax.random.key(3), 32, 32, 1.0)
    moved = np.asarray(spatial.apply_transform(transform, 255 * mask))
    np.testing.assert_allclose(moved, 255 * spatial.apply_transform(transform, mask), atol=1e-3)
    assert np.abs(moved - 255 * mask).max() > 100


def test_the_elastic_field_is_slight():
    _, rest = fit(drawn(100, 1.0))
    assert 0.2 * spatial.ELASTIC <= rest.std() <= spatial.ELASTIC


@pytest.mark.parametrize(("sides", "patch"), [((6, 7), (4, 4)), ((6, 5, 4), (3, 3, 2))])
def test_crops_and_all_eight_turns_of_every_place(sides, patch):
    image = np.arange(np.prod(sides)).reshape(*sides, 1)
    arrays = {"image": jnp.asarray(image), "mask": jnp.asarray(-image)}

    def view(key):
        first, second = jax.random.split(key)
        crop = spatial.random_crop(first, arrays, jnp.asarray(sides), patch=patch)
        return spatial.random_rot90_flip(second, crop)

    drawn = jax.jit(jax.vmap(view))(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_array_equal(drawn["image"], -drawn["mask"])
    views = {np.asarray(crop).tobytes() for crop in drawn["image"]}
    want = set()
    for start in itertools.product(*(range(s - p + 1) for s, p in zip(sides, patch))):
        crop = image[tuple(slice(s, s + p) for s, p in zip(start, patch))]
        for turns, flip in itertools.product(range(4), (False, True)):
            turned = np.rot90(crop, turns)
            turned = turned[::-1] if flip else turned
            want.add(np.ascontiguousarray(turned.astype(drawn["image"].dtype)).tobytes())
    assert views == want


@pytest.mark.parametrize("flips", [True, False])
def test_turns_keep_left_and_right_apart(flips):
    """Seen from the front, the left is on the same hand in every view."""
    front, left, right = (np.zeros((5, 5)) for _ in range(3))
    front[0, 2], left[3, 0], right[3, 4] = 1, 1, 1
    arrays = {"image": jnp.asarray(front)[..., None], "mask": jnp.stack([left, right], -1)}
    turn = lambda key: spatial.random_rot90_flip(
        key, arrays, flips=flips, orders={"mask": (1, 0)} if flips else {}
    )
    drawn = jax.jit(jax.vmap(turn))(jax.random.split(jax.random.key(0), 100))
    place = lambda x: np.stack(np.unravel_index(np.asarray(x).reshape(100, -1).argmax(-1), (5, 5)))
    ahead = place(drawn["image"]) - 2
    across = place(drawn["mask"][..., 0]) - place(drawn["mask"][..., 1])
    assert (ahead[0] * across[1] - ahead[1] * across[0] > 0).all()
    assert len({view.tobytes() for view in np.asarray(drawn["mask"])}) == 4


def test_padding_is_not_cropped():
    image = jnp.zeros((9, 9, 1)).at[:5, :4].set(1)
    crop = lambda key: spatial.random_crop(key, {"image": image}, jnp.asarray([5, 4]), patch=(4, 4))
    drawn = jax.vmap(crop)(jax.random.split(jax.random.key(0), 50))["image"]
    np.testing.assert_array_equal(drawn, 1)


def test_crop_of_an_image_smaller_than_the_patch():
    crop = spatial.random_crop(
        jax.random.key(0), {"image": jnp.ones((3, 9, 1))}, jnp.asarray([3, 9]), patch=(4, 6)
    )
    np.testing.assert_array_equal(crop["image"][:3], jnp.ones((3, 6, 1)))
    np.testing.assert_array_equal(crop["image"][3:], jnp.zeros((1, 6, 1)))


def test_turns_need_a_square():
    with pytest.raises(ValueError, match="first two sides must be the same"):
        spatial.random_rot90_flip(jax.random.key(0), {"image": jnp.zeros((4, 6, 1))})
