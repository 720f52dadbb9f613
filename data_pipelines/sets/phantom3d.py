"""Drawn hearts: a small set of volumes for tests, examples and machines without data."""

import numpy as np
from scipy import ndimage

from data_pipelines.sets.volume_set import DecodedVolume, VolumeSetBuilder, standardize
from data_pipelines.source import Roots, Source

COUNTS = {"train": 40, "val": 6, "test": 12}
SIDES = (48, 48, 32)
SPACING = (1.25, 1.25, 2.5)  # mm
_SEED = 20210304


class Phantom3D(VolumeSetBuilder):
    """An atrium with its veins, to segment, beside a ventricle and a vessel as bright as it is."""

    def __init__(self, *, prepared_dir: str = ""):
        super().__init__(source_dir=__file__, prepared_dir=prepared_dir, name="phantom3d")

    def fingerprint(self) -> str:
        return "drawing1"  # raise the number when a picture changes

    def find(self, roots: Roots) -> list[Source]:
        names = [(f"{split}_{n:02d}", split) for split in COUNTS for n in range(COUNTS[split])]
        return [Source(id=name, group=name, split=split) for name, split in names]

    def read(self, source: Source) -> DecodedVolume:
        split, _, number = source.id.partition("_")
        image, mask = draw(np.random.default_rng([_SEED, list(COUNTS).index(split), int(number)]))
        return image, mask, np.diag([*SPACING, 1.0])


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws one heart of its own size: standardised image float32 and mask bool, [X, Y, Z]."""
    sides = [int(side + rng.integers(-3, 4)) for side in SIDES]
    axes = [np.linspace(-1, 1, 2 * side + 1)[1::2] for side in sides]
    place = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)  # -1 to 1 along each axis

    centre = rng.uniform(-0.15, 0.15, 3)
    atrium = _ellipsoid(place, centre, rng.uniform((0.3, 0.25, 0.35), (0.45, 0.38, 0.5)), rng)
    for _ in range(rng.integers(2, 5)):  # veins leave to the back
        outwards = np.array([rng.uniform(-1, 1), -1, rng.uniform(-0.6, 0.6)])
        end = centre + 0.7 * outwards / np.linalg.norm(outwards)
        atrium |= _tube(place, centre, end, rng.uniform(0.07, 0.12))
    front = centre + [rng.uniform(-0.2, 0.2), rng.uniform(0.62, 0.75), rng.uniform(-0.1, 0.1)]
    ventricle = _ellipsoid(place, front, rng.uniform((0.35, 0.25, 0.4), (0.5, 0.35, 0.6)), rng)
    side = np.array([centre[0] + rng.choice([-1, 1]) * rng.uniform(0.62, 0.75), centre[1], 0])
    vessel = _tube(place, side - [0, 0, 1], side + [0, 0, 1], rng.uniform(0.1, 0.16))
    wall = ndimage.binary_dilation(atrium, iterations=2) & ~atrium

    image = ndimage.gaussian_filter(rng.normal(size=sides), 3.0)
    image *= 0.25 / image.std()
    image[ventricle | vessel] += rng.uniform(0.7, 1.1)
    image[wall] = rng.uniform(-0.4, 0.0)
    image[atrium] += rng.uniform(0.8, 1.1)
    image = ndimage.gaussian_filter(image, 0.7) + rng.normal(scale=0.25, size=sides)
    return standardize(image), atrium


def _ellipsoid(
    place: np.ndarray, centre: np.ndarray, radii: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A mask, turned a little about the last axis."""
    angle = rng.uniform(-0.5, 0.5)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    return np.square(((place - centre) @ turn) / radii).sum(axis=-1) < 1


def _tube(place: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float) -> np.ndarray:
    """A mask of what is nearer than `radius` to the line from start to end."""
    along = np.clip((place - start) @ (end - start) / np.square(end - start).sum(), 0, 1)
    return np.square(place - start - along[..., None] * (end - start)).sum(axis=-1) < radius**2
