"""Draws a frontal chest film by arithmetic.

Positions are in film units: x and y run from -1 to 1 over an upright, centred patient, y downwards.
A picture is a map of attenuation (body + bones + vessels - air), shown through one tone curve.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from scipy import ndimage

Array = np.ndarray
Range = tuple[float, float]

_ROWS = 2048
_Y = np.linspace(-2, 2, _ROWS, dtype=np.float32)  # what a row of the border tables stands for


class Hospital(NamedTuple):
    """What is typical of a hospital's patients, posture and machine: ranges of uniform draws. Those
    here are of adults, standing, at high contrast.
    """

    zoom: Range = (0.98, 1.14)  # size of the patient on the film
    shift: Range = (-0.05, 0.05)  # film units
    tilt: Range = (-0.05, 0.05)  # radians
    lung_height: Range = (1.05, 1.25)  # from apex to dome, film units
    lung_width: Range = (0.66, 0.76)  # from midline to chest wall
    heart: Range = (0.14, 0.28)  # how far it bulges into the left lung
    bone: Range = (0.06, 0.12)  # contrast of ribs and clavicles
    centre: Range = (0.44, 0.62)  # attenuation shown as mid-grey: a low centre is a bright film
    contrast: Range = (1.8, 2.8)
    black: Range = (0.0, 0.06)  # darkest and
    white: Range = (0.85, 1.0)  # brightest grey of the film, of 1
    noise: Range = (0.006, 0.02)  # standard deviation, of 1
    collimated: float = 0.15  # share of films with black borders


HOSPITALS = {
    "a": Hospital(),
    "b": Hospital(  # younger or lying patients, flatter and noisier films, looser framing
        zoom=(0.84, 1.02),
        shift=(-0.1, 0.1),
        tilt=(-0.1, 0.1),
        lung_height=(0.85, 1.08),
        lung_width=(0.62, 0.74),
        heart=(0.2, 0.36),
        bone=(0.1, 0.18),
        centre=(0.36, 0.6),
        contrast=(1.3, 1.9),
        black=(0.02, 0.14),
        white=(0.72, 0.92),
        noise=(0.015, 0.04),
        collimated=0.4,
    ),
}


class Anatomy(NamedTuple):
    """Where things are; pairs hold (image left, image right), that is the patient's right, left."""

    apex: float  # y of the top of the lungs
    dome: Array  # [2] y of the top of the diaphragm
    width: Array  # [2] from midline to chest wall
    inner: Array  # [2, _ROWS] inner and
    outer: Array  # [2, _ROWS] outer border of the lung, by row
    cage: Array  # [2, _ROWS] outer border of the ribs, by row
    midline: Array  # [_ROWS] x of the spine, by row


def draw(rng: Generator, *, size: int, hospital: str, opacity: bool) -> tuple[Array, Array]:
    """Draws one frontal chest film, with or without opacities of pneumonia: the image in 0..255 and
    the mask of the lungs, both [size, size].

    Equal fresh generators give the same patient and film with and without opacities.
    """
    place = HOSPITALS[hospital]
    sick = rng.spawn(1)[0]  # apart, so that opacities change nothing else
    patient = _anatomy(rng, place)

    to_patient, to_film = _placement(rng, place)
    film = np.linspace(-1, 1, 2 * size + 1, dtype=np.float32)[1::2]  # centres of pixels
    x = to_patient[0, 0] * film + (to_patient[0, 1] * film)[:, None] + to_patient[0, 2]
    y = to_patient[1, 0] * film + (to_patient[1, 1] * film)[:, None] + to_patient[1, 2]

    row = np.clip(((y + 2) * ((_ROWS - 1) / 4)).astype(np.int32), 0, _ROWS - 1)
    x = x - patient.midline[row]
    u, side = np.abs(x), (x > 0).astype(np.int32)
    tables = (patient.inner, patient.outer, patient.cage)
    inner, outer, cage = (table[side, row] for table in tables)

    # The diaphragm: a dome that falls to the heart and, further, to the chest wall.
    out = np.maximum(u - 0.33, 0) / (patient.width - 0.33)[side]
    towards_heart = np.maximum(0.33 - u, 0)
    dome = patient.dome[side] + 0.2 * out * out + 0.6 * towards_heart * towards_heart
    depth = np.minimum(np.minimum(u - inner, outer - u), dome - y)  # into the lung, film units
    lungs = depth > 0
    air = _step(depth / 0.035) * (0.72 + 0.28 * _step(depth / 0.22))

    air = air * (1 - np.minimum(_vessels(rng, patient, to_film, size), 0.5))
    air = air * (1 + 0.1 * _smooth_noise(rng, size, 12))
    if opacity:
        air = air * (1 - _opacities(sick, lungs, size))

    body = _body(rng, patient, x, u, y)
    bones = rng.uniform(*place.bone) * _bones(rng, patient, u, y, cage)
    attenuation = body - rng.uniform(0.42, 0.52) * air + bones
    return _develop(rng, place, attenuation, film), lungs


def _anatomy(rng: Generator, place: Hospital) -> Anatomy:
    apex = rng.uniform(-0.82, -0.68)
    height = rng.uniform(*place.lung_height)
    dome = apex + height + np.array([0.0, rng.uniform(0.0, 0.08)])
    width = rng.uniform(*place.lung_width) * rng.uniform(0.96, 1.04, 2)
    top = rng.uniform(0.27, 0.33, 2)  # distance of the apex from the midline

    t = (_Y - apex) / (dome - apex)[:, None]  # 0 at the apex, 1 at the dome
    wave = rng.uniform(0, 2 * np.pi, (2, 2, 3, 1)) + np.arange(1, 4)[:, None] * 4 * t[:, None]
    wobble = np.sum(np.sin(wave) * [[0.010], [0.006], [0.004]], axis=2) * _rise(t, 0.3, 2)

    hilum = rng.uniform(0.1, 0.15)
    inner = top[:, None] - (top[:, None] - hilum) * _rise(t, rng.uniform(0.25, 0.35), 2)
    inner[0] += rng.uniform(0.02, 0.1) * np.exp(-np.square((t[0] - 0.85) / 0.22))  # right atrium
    inner[1] += rng.uniform(0.01, 0.06) * np.exp(-np.square((t[1] - 0.3) / 0.07))  # aortic knob
    inner[1] += rng.uniform(*place.heart) * _step((t[1] - 0.38) / 0.55)
    outer = top[:, None] + (width - top)[:, None] * _rise(t, rng.uniform(0.75, 0.95), 2.1)
    cage = 0.2 + (width - 0.15)[:, None] * _rise(t + 0.12, 0.9, 2.2)
    midline = rng.normal(0, 0.012) * np.sin(2 * _Y + rng.uniform(0, 6))
    tables = (dome, width, inner + wobble[0], outer + wobble[1], cage, midline)
    return Anatomy(apex, *(table.astype(np.float32) for table in tables))


def _placement(rng: Generator, place: Hospital) -> tuple[Array, Array]:
    """The affine maps [2, 3] from film to patient and back."""
    angle = rng.uniform(*place.tilt)
    zoom = rng.uniform(*place.zoom) * rng.uniform(0.96, 1.04, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn * zoom
    shift = rng.uniform(*place.shift, (2, 1))
    inverse = np.linalg.inv(matrix)
    to_film = np.hstack([matrix, shift])
    return np.hstack([inverse, -inverse @ shift]).astype(np.float32), to_film.astype(np.float32)


def _vessels(rng: Generator, patient: Anatomy, to_film: Array, size: int) -> Array:
    """Branching lines from both hila: roots, and two generations of branches on each."""
    roots = 9
    height = float(np.mean(patient.dome)) - patient.apex
    sign = np.repeat([-1.0, 1.0], roots)
    start = np.stack([sign * 0.16, np.full(2 * roots, patient.apex + 0.45 * height)], axis=-1)
    start = start + rng.normal(0, 0.03, start.shape)
    angle = np.tile(np.linspace(-1.35, 1.35, roots), 2) + rng.normal(0, 0.12, 2 * roots)
    length = height * rng.uniform(0.4, 0.62, 2 * roots)
    weight = 1.0
    total = np.zeros(size * size, np.float32)
    for steps in (72, 40, 24):
        along = np.linspace(0, 1, steps)
        bend = angle[:, None] + rng.normal(0, 0.35, (len(angle), 1)) * along
        stride = np.stack([sign[:, None] * np.cos(bend), np.sin(bend)], axis=-1)
        path = start[:, None] + np.cumsum(stride, axis=1) * (length[:, None, None] / steps)
        pixel = ((path @ to_film[:, :2].T + to_film[:, 2] + 1) * (size / 2)).astype(np.int64)
        inside = np.all((pixel >= 0) & (pixel < size), axis=-1)
        taper = np.broadcast_to(weight * (1 - 0.7 * along), inside.shape)
        flat = pixel[inside] @ np.array([1, size])
        total += np.bincount(flat, taper[inside], size * size).astype(np.float32)

        forks = rng.integers(int(0.25 * steps), steps, (len(angle), 3))
        start = np.take_along_axis(path, forks[..., None], axis=1).reshape(-1, 2)
        turn = rng.uniform(0.25, 0.8, forks.shape) * rng.choice([-1, 1], forks.shape)
        angle = (np.take_along_axis(bend, forks, axis=1) + turn).ravel()
        length = np.repeat(length, 3) * rng.uniform(0.35, 0.6, forks.size)
        sign, weight = np.repeat(sign, 3), 0.6 * weight
    lines = total.reshape(size, size)
    pixels = size / 256
    wide = ndimage.gaussian_filter(lines, 2.2 * pixels, truncate=2.5)
    return 0.22 * pixels * ndimage.gaussian_filter(lines, 0.8 * pixels, truncate=2.5) + 0.5 * wide


def _opacities(rng: Generator, lungs: Array, size: int) -> Array:
    """How much of the air is replaced, 0..1: two to four clouds with ragged, soft edges."""
    film = np.linspace(-1, 1, size, dtype=np.float32)
    where = np.flatnonzero(lungs)
    ragged = 0.22 * _smooth_noise(rng, size, 12) + 0.1 * _smooth_noise(rng, size, 40)
    clear = np.ones((size, size), np.float32)
    for _ in range(rng.integers(2, 5)):
        row, column = divmod(int(where[rng.integers(len(where))]), size)
        dx = (film - film[column]) / rng.uniform(0.22, 0.46)
        dy = (film - film[row]) / rng.uniform(0.22, 0.46)
        distance = np.sqrt(dx * dx + (dy * dy)[:, None])
        cloud = _step((1.2 - distance + ragged) / rng.uniform(0.7, 1.3))
        clear *= 1 - rng.uniform(0.6, 0.95) * cloud
    return 1 - clear


def _body(rng: Generator, patient: Anatomy, x: Array, u: Array, y: Array) -> Array:
    """Attenuation of all that is soft, with the lungs still full: body, heart, spine, abdomen."""
    chest = float(np.max(patient.width)) + rng.uniform(0.12, 0.24)
    neck = rng.uniform(0.24, 0.32)
    slope = np.maximum(u - neck, 0)
    shoulder = y - patient.apex + rng.uniform(0.12, 0.22) - rng.uniform(0.1, 0.3) * slope
    shoulder = np.hypot(np.maximum(shoulder, 0), np.maximum(neck - u, 0))
    axilla = rng.uniform(-0.1, 0.4) + rng.uniform(-0.6, 1.0) * (u - chest) - y
    inside = np.minimum(shoulder, np.maximum(chest + 0.05 * y - u, axilla))
    thick = np.clip(inside / 0.2, 0, 1)
    thick = thick * (2 - thick)

    core = np.exp(-np.square(u / rng.uniform(0.24, 0.32)))  # heart, great vessels, spine
    spine = _step((0.13 - u) / 0.09) * (0.85 + 0.15 * np.cos(y * rng.uniform(42, 50)))
    trachea = _step((0.06 - np.abs(x - 0.01)) / 0.04) * _step((-0.2 - y) / 0.2)
    dome = float(patient.dome[0])
    belly = _step((y - dome + 0.1) / 0.4)
    breast = np.square((u - rng.uniform(0.38, 0.46)) / 0.34)
    breast = breast + np.square((y - dome + rng.uniform(0, 0.15)) / 0.3)
    bubble = np.square((x - rng.uniform(0.3, 0.45)) / rng.uniform(0.08, 0.16))
    bubble = bubble + np.square((y - patient.dome[1] - rng.uniform(0.12, 0.2)) / 0.07)
    shaft = np.square((u - rng.uniform(0.9, 1.0)) / 0.13)  # head of the upper arm
    shaft = shaft + np.square((y - patient.apex - rng.uniform(0.1, 0.2)) / 0.14)
    tissue = 0.6 + 0.2 * core + 0.14 * belly + 0.06 * spine - 0.1 * trachea
    tissue = tissue + max(rng.uniform(-0.1, 0.1), 0) * _step((1 - breast) / 0.8)
    tissue = tissue - rng.uniform(0, 0.25) * _step((1 - bubble) / 0.8)
    tissue = tissue + 0.05 * _step((1 - shaft) / 0.7)
    tissue = tissue + 0.05 * _smooth_noise(rng, len(x), 6) * (1 - core)
    return thick * tissue


def _bones(rng: Generator, patient: Anatomy, u: Array, y: Array, cage: Array) -> Array:
    """Ribs behind (nearly level), ribs in front (steep, fainter) and clavicles; about 0..2."""
    gap = rng.uniform(0.15, 0.185)
    first = rng.uniform(0, gap)
    rim = np.square(np.square(u / np.maximum(cage, 0.1)))  # ribs seen along their length
    behind = y - first + u * (rng.uniform(0.1, 0.2) - rng.uniform(0.4, 0.55) * u)
    front = y - first + u * rng.uniform(0.5, 0.7)
    ribs = _stripes(behind / gap, 0.4) * (0.7 + np.minimum(rim, 1))
    ribs = ribs + 0.45 * _stripes(front / gap, 0.45) * _step((u - 0.22) / 0.2)
    ribs = ribs * _step((cage - u) / 0.04) * _step((u - 0.08) / 0.2)
    fade = _step((y - float(patient.dome[0]) + 0.05) / 0.3)  # the belly hides the lower ribs
    ribs = ribs * _step((y - patient.apex + 0.1) / 0.1) * (1 - 0.85 * fade)

    along = u - rng.uniform(0.06, 0.1)
    clavicle = y - patient.apex - rng.uniform(0.12, 0.26)
    clavicle = clavicle + along * (rng.uniform(0.3, 0.6) - rng.uniform(0.3, 0.6) * along)
    clavicle = np.abs(clavicle) / rng.uniform(0.03, 0.038)
    cortex = _step((1.15 - clavicle) / 0.5) * (0.7 + 0.4 * np.minimum(clavicle, 1))
    cortex = cortex * _step(along / 0.05) * _step((0.75 - along) / 0.15)
    return ribs + cortex


def _develop(rng: Generator, place: Hospital, attenuation: Array, film: Array) -> Array:
    """Attenuation to grey 0..255: tone curve, vignetting, noise, collimator."""
    size = len(film)
    contrast, centre = rng.uniform(*place.contrast), rng.uniform(*place.centre)
    low, high = math.tanh(-contrast * centre), math.tanh(contrast * (1 - centre))
    grey = (np.tanh(contrast * (attenuation - centre)) - low) / (high - low)
    black, white = rng.uniform(*place.black), rng.uniform(*place.white)
    grey = black + (white - black) * grey
    squares = np.square(film - rng.uniform(-0.3, 0.3))
    grey = grey * (1 - rng.uniform(0, 0.12) * (squares + squares[:, None]))
    grey = grey + rng.uniform(*place.noise) * rng.standard_normal((size, size), np.float32)
    if rng.random() < place.collimated:
        left, top = rng.uniform(-1, -0.86, 2)
        right, bottom = rng.uniform(0.86, 1, 2)
        grey = grey * ((film > left) & (film < right)) * ((film > top) & (film < bottom))[:, None]
    return (255 * np.clip(grey, 0, 1)).astype(np.float32)


def _rise(t: Array, end: float, power: float) -> Array:
    """From 0 at t = 0 to 1 at `end` along a quarter of a superellipse, then level."""
    rest = 1 - np.clip(t / end, 0, 1)
    return (1 - rest**power) ** (1 / power)


def _step(t: Array) -> Array:
    """The smooth step from 0 at t = 0 to 1 at t = 1."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - (t + t))


def _stripes(t: Array, width: float) -> Array:
    """One stripe a unit, `width` of it wide, brighter at its edges."""
    off = np.abs(t - np.round(t)) * (2 / width)  # 0 in the middle of a stripe, 1 at its edge
    return _step((1.2 - off) / 0.4) * (0.65 + 0.35 * np.minimum(off, 1))


def _smooth_noise(rng: Generator, size: int, cells: int) -> Array:
    """[size, size] noise of mean 0 and deviation 1, with `cells` features a side.

    A quadratic B-spline through random values; by indexing, because threaded matrix products of
    this shape are slower than all the rest of the drawing.
    """
    place = (np.arange(size, dtype=np.float32) + 0.5) * (cells / size)
    cell = place.astype(np.intp)
    f = (place - np.floor(place))[:, None]
    weights = np.stack([(1 - f) * (1 - f), 1 + 2 * f * (1 - f), f * f])
    weights /= np.sqrt(np.sum(np.square(weights), axis=0))
    noise = rng.standard_normal((cells + 2, cells + 2), dtype=np.float32)
    for _ in range(2):  # rows, then columns
        noise = sum(weights[k] * noise[cell + k] for k in range(3)).T
    return noise
