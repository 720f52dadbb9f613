"""How images look to a network: what those that it was trained on have in common."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from PIL import Image

_SIDE = 16  # of the thumbnails that are compared
_OUTER = 0.02  # share of the images trained on that lie beyond either end of a range
_MARGIN = 0.5  # by which a range is wider than that, of its width
_LEAST_MARGIN = {"proportions": 0.1, "detail": 0.3}
# What is said of an image below, or above, the range of each measure.
_WORDS = {
    "mean": ("darker", "brighter"),
    "contrast": ("of less contrast", "of more contrast"),
    "likeness": ("of another shape", "of another shape"),
    "colour": ("less coloured", "more coloured"),
    "proportions": ("taller", "wider"),
    "detail": ("of fewer pixels", "of more pixels"),
}


@dataclasses.dataclass(frozen=True)
class Appearance:
    """What images trained on have in common: their mean, and ranges of some measures.

    Attributes:
      template: the mean of their thumbnails, each of mean 0 and variance 1, [_SIDE * _SIDE].
      ranges: from and to, by measure: mean and standard deviation of the grey values, correlation
        with the template, mean difference of an image's highest and lowest channel, and, of the
        file, log(width / height) and log of its shorter side, up to S, over S.
    """

    template: tuple[float, ...]
    ranges: Mapping[str, tuple[float, float]]

    @classmethod
    def of_images(cls, images: np.ndarray, shapes: np.ndarray) -> Self:
        """Of uint8 [N,S,S,C], as the network sees them, and of the sides of all files, int [M,2],
        in pixels."""
        template = _standardized(_thumbnails(images)).mean(axis=0)
        ranges = {}
        measures = _measures(images, template) | _of_files(shapes, images.shape[1])
        for name, values in measures.items():
            low, high = np.quantile(values, [_OUTER, 1 - _OUTER])
            margin = _MARGIN * (high - low) + _LEAST_MARGIN.get(name, 1e-3)
            ranges[name] = float(low - margin), float(high + margin)
        return cls(tuple(template.tolist()), ranges)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """From JSON values, in which tuples are lists."""
        ranges = {name: (float(a), float(b)) for name, (a, b) in values["ranges"].items()}
        return cls(tuple(map(float, values["template"])), ranges)

    def unlike(self, images: np.ndarray, shapes: np.ndarray) -> list[tuple[str, ...]]:
        """In what each of uint8 [N,S,S,C], from files of these sides, int [N,2], is unlike them; ()
        where it is like them."""
        said: list[tuple[str, ...]] = [()] * len(images)
        measures = _measures(images, np.array(self.template))
        for name, values in (measures | _of_files(shapes, images.shape[1])).items():
            low, high = self.ranges[name]
            for place, value in enumerate(values):
                if not low <= value <= high:
                    said[place] += (_WORDS[name][int(value > high)],)
        return said


def _measures(images: np.ndarray, template: np.ndarray) -> dict[str, np.ndarray]:
    """float [N] by name."""
    thumbnails = _thumbnails(images)
    centred = template - template.mean()
    likeness = _standardized(thumbnails) @ centred / (len(template) * max(centred.std(), 1e-6))
    spread = images.max(axis=-1).astype(float) - images.min(axis=-1)
    return {
        "mean": thumbnails.mean(axis=1),
        "contrast": thumbnails.std(axis=1),
        "likeness": likeness,
        "colour": spread.mean(axis=(1, 2)),
    }


def _of_files(shapes: np.ndarray, side: int) -> dict[str, np.ndarray]:
    """Measures of the sides that files have, float [N] by name; larger ones than the network's
    are made smaller, so that only smaller ones show less."""
    shorter = np.minimum(shapes.min(axis=1), side)
    return {
        "proportions": np.log(shapes[:, 1] / shapes[:, 0]),
        "detail": np.log(shorter / side),
    }


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Grey values of uint8 [N,S,S,C], shrunk: float [N, _SIDE * _SIDE]."""
    small = [
        Image.fromarray(image.mean(axis=-1, dtype=np.float32)).resize(
            (_SIDE, _SIDE), Image.Resampling.BOX
        )
        for image in images
    ]
    return np.stack([np.asarray(one, float).ravel() for one in small])


def _standardized(thumbnails: np.ndarray) -> np.ndarray:
    centred = thumbnails - thumbnails.mean(axis=1, keepdims=True)
    return centred / np.maximum(centred.std(axis=1, keepdims=True), 1e-3)
