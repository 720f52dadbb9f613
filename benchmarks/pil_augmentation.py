"""The published augmentation in PIL, as a PyTorch data loader runs it: the peer of our pipeline.

Haque et al. 2021, after RandAugment as FixMatch (Sohn et al. 2020) uses it. Pictures are of 8-bit
grey.
"""

import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Picture = Image.Image


def _factor(v: int) -> float:
    return 0.9 * v / 10 + 0.05


def _moved(picture: Picture, *matrix: float) -> Picture:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix)


# Of a picture, a magnitude v of 1..9 and that of .3v/10, signed at random.
OPERATIONS: dict[str, Callable[[Picture, int, float], Picture]] = {
    "autocontrast": lambda picture, v, part: ImageOps.autocontrast(picture),
    "brightness": lambda picture, v, part: ImageEnhance.Brightness(picture).enhance(_factor(v)),
    "contrast": lambda picture, v, part: ImageEnhance.Contrast(picture).enhance(_factor(v)),
    "equalize": lambda picture, v, part: ImageOps.equalize(picture),
    "identity": lambda picture, v, part: picture,
    "posterize": lambda picture, v, part: ImageOps.posterize(picture, 4 + 4 * v // 10),
    "rotate": lambda picture, v, part: picture.rotate(100 * part),
    "sharpness": lambda picture, v, part: ImageEnhance.Sharpness(picture).enhance(_factor(v)),
    "shear_x": lambda picture, v, part: _moved(picture, 1, part, 0, 0, 1, 0),
    "shear_y": lambda picture, v, part: _moved(picture, 1, 0, 0, part, 1, 0),
    "solarize": lambda picture, v, part: ImageOps.solarize(picture, 256 - int(25.6 * v)),
    "translate_x": lambda picture, v, part: _moved(picture, 1, 0, part * picture.width, 0, 1, 0),
    "translate_y": lambda picture, v, part: _moved(picture, 1, 0, 0, 0, 1, part * picture.height),
}


def weak(picture: Picture, rng: random.Random) -> Picture:
    """A flip with probability 1/2, then a crop after reflecting 1/8 of each side."""
    if rng.random() < 0.5:
        picture = ImageOps.mirror(picture)
    width, height = picture.size
    right, down = width // 8, height // 8
    padded = np.pad(np.asarray(picture), ((down, down), (right, right)), mode="reflect")
    top, left = rng.randint(0, 2 * down), rng.randint(0, 2 * right)
    return Image.fromarray(padded[top : top + height, left : left + width])


def strong(picture: Picture, rng: random.Random) -> Picture:
    """A weak view, then two operations, each with probability 1/2."""
    picture = weak(picture, rng)
    for operation in rng.choices(list(OPERATIONS.values()), k=2):
        v, sign = rng.randint(1, 9), rng.choice((-1, 1))
        if rng.random() < 0.5:
            picture = operation(picture, v, sign * 0.3 * v / 10)
    return picture
