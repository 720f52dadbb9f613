"""Tests of multimix_jax.inference.appearance."""

import dataclasses
import json

import numpy as np
import pytest

from multimix_jax.inference.appearance import Appearance

SIDE = 32


def films(count, seed, channels=1):
    """Two dark lungs in a body, each film of its own exposure, sizes and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    images = []
    for _ in range(count):
        width, height = rng.uniform(0.25, 0.4), rng.uniform(0.6, 0.8)
        lungs = ((np.abs(x) - 0.45) / width) ** 2 + (y / height) ** 2 < 1
        image = rng.uniform(140, 190) - rng.uniform(80, 110) * lungs + rng.normal(0, 8, x.shape)
        images.append(np.clip(image, 0, 255).astype(np.uint8))
    return np.stack([np.stack(images)] * channels, axis=-1)


def of_images(images):
    return Appearance.of_images(images, np.full((len(images), 2), 4 * SIDE))


def unlike(appearance, images, sides=(4 * SIDE, 4 * SIDE)):
    return appearance.unlike(images, np.full((len(images), 2), sides))


@pytest.fixture(scope="module")
def trained_on():
    return of_images(films(100, seed=0))


def share(appearance, images):
    return np.mean([bool(said) for said in unlike(appearance, images)])


def test_other_images_of_the_same_set_are_like_them(trained_on):
    assert share(trained_on, films(100, seed=1)) <= 0.02
    assert share(trained_on, films(100, seed=1)[:, :, ::-1]) <= 0.02


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda x: 255 - x, "of another shape"),
        (lambda x: x[:, ::2, ::2].repeat(2, 1).repeat(2, 2)[:, ::-1] // 3, "darker"),
        (lambda x: np.full_like(x, 120), "of less contrast"),
        (lambda x: np.minimum(x.astype(int) + 120, 255).astype(np.uint8), "brighter"),
        (lambda x: np.random.default_rng(0).integers(0, 256, x.shape, np.uint8), "of another"),
    ],
    ids=["inverted", "dark", "constant", "bright", "noise"],
)
def test_what_they_do_not_have_in_common_is_said(trained_on, change, word):
    said = unlike(trained_on, change(films(20, seed=2)))
    assert all(word in ", ".join(one) for one in said)


@pytest.mark.parametrize(
    ("sides", "said"),
    [((256, 256), ()), ((140, 128), ()), ((100, 250), ("wider",)), ((200, 100), ("taller",))]
    + [((16, 16), ("of fewer pixels",))],
)
def test_files_of_other_sides(trained_on, sides, said):
    assert unlike(trained_on, films(3, seed=1), sides) == [said] * 3


def test_colour_is_of_colours():
    grey = of_images(films(50, seed=0, channels=3))
    assert share(grey, films(50, seed=1, channels=3)) <= 0.02
    coloured = films(10, seed=1, channels=3)
    coloured[..., 0] //= 2
    assert all("more coloured" in said for said in unlike(grey, coloured))


def test_it_is_the_same_from_json(trained_on):
    text = json.dumps(dataclasses.asdict(trained_on))
    assert unlike(Appearance.from_json(json.loads(text)), films(5, seed=3)) == [()] * 5
