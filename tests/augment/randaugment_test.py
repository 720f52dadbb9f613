import functools

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from multimix_jax.augment import randaugment

LEVELS = range(1, randaugment.MAGNITUDES + 1)
ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
}


def smooth_image(height, width, channels=1):
    """A soft, low-contrast picture: two dark blobs on a gradient, a little noise."""
    y, x = np.mgrid[:height, :width] / np.reshape([height, width], (2, 1, 1))
    blobs = sum(np.exp(-60 * ((x - c) ** 2 + (y - 0.5) ** 2 / 4)) for c in (0.3, 0.7))
    noise = np.random.default_rng(7).normal(0, 2, (height, width, channels))
    image = (140 + 60 * y - 80 * blobs)[..., None] + noise
    return image.clip(0, 255).astype(np.uint8)


def random_image(height, width, channels=1):
    rng = np.random.default_rng(height * width)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


IMAGES = {
    "random_32": random_image(32, 32),
    "random_24x40": random_image(24, 40),
    "smooth_32": smooth_image(32, 32),
    "smooth_100x60": smooth_image(100, 60),
    "constant": np.full((16, 16, 1), 90, np.uint8),
    "two_values": np.where(np.eye(16)[..., None] > 0, 7, 201).astype(np.uint8),
}


def pil_operation(name, image, level, sign):
    """The published operation, in PIL's own words."""
    height, width, channels = image.shape
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    amount = sign * 0.3 * level / 10
    if name in ENHANCERS:
        picture = ENHANCERS[name](picture).enhance(0.9 * level / 10 + 0.05)
    elif name == "autocontrast":
        picture = ImageOps.autocontrast(picture)
    elif name == "equalize":
        picture = ImageOps.equalize(picture)
    elif name == "posterize":
        picture = ImageOps.posterize(picture, int(4 * level / 10) + 4)
    elif name == "solarize":
        picture = ImageOps.solarize(picture, 256 - int(25.6 * level))
    elif name == "rotate":
        picture = picture.rotate(sign * 30 * level / 10)
    elif name != "identity":
        matrix = {
            "shear_x": (1, amount, 0, 0, 1, 0),
            "shear_y": (1, 0, 0, amount, 1, 0),
            "translate_x": (1, 0, amount * width, 0, 1, 0),
            "translate_y": (1, 0, 0, 0, 1, amount * height),
        }[name]
        picture = picture.transform(picture.size, Image.Transform.AFFINE, matrix)
    return np.asarray(picture).reshape(image.shape)


def batch_of(image, count):
    return jnp.asarray(np.broadcast_to(image, (count, *image.shape)))


apply_batch = jax.jit(jax.vmap(randaugment.apply_operation))
weak_batch = jax.jit(jax.vmap(randaugment.weak))
strong_batch = jax.jit(jax.vmap(randaugment.strong))
draw_batch = jax.jit(jax.vmap(randaugment.draw_operation))


def check(image):
    cases = [
        (name, level, sign)
        for name in randaugment.OPERATIONS
        for level in LEVELS
        for sign in (-1, 1)
    ]
    indices = jnp.asarray([randaugment.OPERATIONS.index(name) for name, _, _ in cases])
    levels = jnp.asarray([level for _, level, _ in cases])
    signs = jnp.asarray([sign for _, _, sign in cases])
    ours = np.asarray(apply_batch(batch_of(image, len(cases)), indices, levels, signs))
    for case, got in zip(cases, ours, strict=True):
        name, level, sign = case
        want = pil_operation(name, image, level, sign)
        if name == "autocontrast" or (name in ENHANCERS and level == 6):
            # Where the exact quotient is a whole number PIL's binary fractions may fall just
            # short of it and lose one grey value: 0.59 is such a factor, 255/(high - low)
            # often is.
            assert np.isin(got.astype(int) - want, (0, 1)).all(), case
            # Exact quotients are few among many grey values, so few pixels differ.
            if len(np.unique(image)) > 50:
                assert np.mean(got != want) < 0.05, case
            if name == "autocontrast" and len(np.unique(image)) > 1:
                assert (got.min(), got.max()) == (0, 255)
        else:
            np.testing.assert_array_equal(got, want, err_msg=str(case))


@pytest.mark.parametrize("name", [*IMAGES])
def test_equals_pil(name):
    check(IMAGES[name])


@pytest.mark.parametrize("make", [random_image, smooth_image])
def test_equals_pil_in_rgb(make):
    check(make(20, 28, 3))


def test_published_list():
    assert len(set(randaugment.OPERATIONS)) == 13


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((8, 8, 1), np.float32), "float32"),
        (np.zeros((2, 8, 8, 1), np.uint8), r"\(2, 8, 8, 1\).*vmap"),
        (np.zeros((8, 8, 2), np.uint8), r"\(8, 8, 2\), expected uint8 \[H, W, 1\] or"),
    ],
)
def test_wrong_images_are_refused(image, words):
    key = jax.random.key(0)
    for function in (randaugment.weak, randaugment.strong):
        with pytest.raises(ValueError, match=words):
            function(key, jnp.asarray(image))
    with pytest.raises(ValueError, match=words):
        randaugment.apply_operation(jnp.asarray(image), 0, 1, 1)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (24, 10)])
def test_weak_is_a_crop_of_the_padded_image_or_its_flip(height, width):
    image = np.random.default_rng(0).permutation(height * width).astype(np.uint8)
    image = image.reshape(height, width, 1)
    padding = ((height // 8,) * 2, (width // 8,) * 2, (0, 0))
    possible = set()
    for source in (image, image[:, ::-1]):
        padded = np.pad(source, padding, mode="reflect")
        for y in range(2 * (height // 8) + 1):
            for x in range(2 * (width // 8) + 1):
                possible.add(padded[y : y + height, x : x + width].tobytes())
    keys = jax.random.split(jax.random.key(1), 600)
    views = [view.tobytes() for view in np.asarray(weak_batch(keys, batch_of(image, 600)))]
    assert set(views) == possible
    # Uniform: each of the views is expected 600 / len(possible) times, at least 12.
    counts = np.asarray([views.count(view) for view in possible])
    expected = 600 / len(possible)
    assert ((counts - expected) ** 2 / expected).sum() < 2 * len(possible)


def test_views_are_mirrored_where_they_say_so_or_never():
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[:, None], (32, 32, 1))
    draw = jax.random.split(jax.random.key(0), 64)
    falls = lambda view: np.asarray(view[:, 12, 18, 0]) < np.asarray(view[:, 12, 12, 0])
    same = np.broadcast_to(ramp, (64, *ramp.shape))
    mirrored = jax.vmap(randaugment.weak_is_mirrored)(draw)
    np.testing.assert_array_equal(falls(weak_batch(draw, same)), mirrored)
    assert 20 < mirrored.sum() < 44
    inner = jax.vmap(lambda key: jax.random.split(key, 3)[0])(draw)  # of the strong view
    np.testing.assert_array_equal(
        jax.vmap(randaugment.strong_is_mirrored)(draw),
        jax.vmap(randaugment.weak_is_mirrored)(inner),
    )
    unflipped = jax.vmap(functools.partial(randaugment.weak, flips=False))
    assert not falls(unflipped(draw, same)).any()


def test_weak_is_the_flip_and_the_crop_of_dm_pix():
    def by_dm_pix(key, image):
        flip_key, crop_key = jax.random.split(key)
        flipped = dm_pix.random_flip_left_right(flip_key, image)
        padded = jnp.pad(flipped, ((3, 3), (1, 1), (0, 0)), mode="reflect")
        return dm_pix.random_crop(crop_key, padded, image.shape)

    images = np.random.default_rng(0).integers(0, 256, (32, 24, 10, 1), np.uint8)
    keys = jax.random.split(jax.random.key(1), 32)
    want = jax.jit(jax.vmap(by_dm_pix))(keys, images)
    np.testing.assert_array_equal(weak_batch(keys, images), want)


def test_strong_is_two_pil_operations_on_its_own_weak_view():
    image = IMAGES["smooth_32"]
    keys = jax.random.split(jax.random.key(2), 40)
    strong = np.asarray(strong_batch(keys, batch_of(image, 40)))
    parts = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
    views = np.asarray(weak_batch(parts[:, 0], batch_of(image, 40)))
    draws = [np.asarray(draw_batch(parts[:, stage])).T for stage in (1, 2)]
    for view, got, *stages in zip(views, strong, *draws, strict=True):
        want = view
        for index, level, sign in stages:
            want = pil_operation(randaugment.OPERATIONS[index], want, level, sign)
        # One grey value, see `check`; the tables of the second stage may stretch it.
        assert np.mean(np.abs(got.astype(int) - want) > 2) < 0.02, stages


def test_draws():
    count = 13 * 400
    index, level, sign = draw_batch(jax.random.split(jax.random.key(3), count))
    frequencies = np.bincount(index, minlength=13) / count
    # Half are the identity on purpose, and one thirteenth of the rest by chance.
    expected = np.full(13, 1 / 26)
    expected[randaugment.OPERATIONS.index("identity")] += 1 / 2
    tolerance = 4 * np.sqrt(expected * (1 - expected) / count)
    np.testing.assert_array_less(np.abs(frequencies - expected), tolerance)
    levels = np.bincount(level, minlength=10) / count
    assert levels[0] == 0
    np.testing.assert_allclose(levels[1:], 1 / 9, atol=4 * np.sqrt(8 / 81 / count))
    assert set(np.asarray(sign).tolist()) == {-1, 1}
    assert np.mean(sign) == pytest.approx(0, rel=0, abs=4 / np.sqrt(count))
    # Independent of each other: the sign says nothing about the operation or the level.
    correlations = np.corrcoef([index, level, sign])[np.triu_indices(3, 1)]
    np.testing.assert_array_less(np.abs(correlations), 4 / np.sqrt(count))


@pytest.mark.parametrize(
    ("function", "function_batch"),
    [(randaugment.weak, weak_batch), (randaugment.strong, strong_batch)],
)
def test_vmap_equals_a_loop_and_keys_decide(function, function_batch):
    images = jnp.concatenate([batch_of(IMAGES[name], 20) for name in ("random_32", "smooth_32")])
    keys = jax.random.split(jax.random.key(4), 40)
    batch = function_batch(keys, images)
    assert batch.dtype == jnp.uint8
    function = jax.jit(function)
    for key, image, want in zip(keys, images, batch, strict=True):
        np.testing.assert_array_equal(function(key, image), want)
    assert (batch[0] != batch[1]).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_lowers_for_every_platform(channels):
    images = jax.ShapeDtypeStruct((2, 16, 16, channels), jnp.uint8)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    for function in (weak_batch, strong_batch):
        exported = jax.export.export(function, platforms=("cpu", "cuda", "tpu"))(keys, images)
        assert exported.out_avals[0].shape == images.shape
