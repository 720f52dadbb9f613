"""Predictions for single images of any size."""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from PIL import Image

from multimix_jax.inference.appearance import Appearance
from multimix_jax.inference.predictor import Predictor
from multimix_jax.labels import LabelSpec

PyTree = Any


class Resize(Protocol):
    """How images are fitted to the square that a network takes."""

    def image(self, values: np.ndarray) -> np.ndarray:
        """Grey values [H,W] or colours [H,W,3] in 0..255 -> uint8 [S,S,C]."""

    def inside(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of the square that an image of that size covers."""


class ImageFiles(Protocol):
    """How image files are found and read: as for training, which data_pipelines knows."""

    @property
    def suffixes(self) -> Sequence[str]: ...

    def below(self, folder: pathlib.Path, /) -> tuple[Sequence[pathlib.Path], str]:
        """Those in and below a folder, and what to say of the files that are none, or ''."""

    def read(self, path: pathlib.Path, channels: int, /) -> tuple[np.ndarray, Any]:
        """float32 [H,W] or [H,W,3] of 0 to 255, and the spacing."""

    def orientation(self, path: pathlib.Path, /) -> int:
        """How the file's pixels are turned against what is read, by EXIF: 1 to 8."""

    def resize(self, side: int, fit: str, channels: int, /) -> Resize: ...

    def in_threads(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterable[Any]:
        """Results in order."""


@dataclasses.dataclass(frozen=True)
class ImagePrediction:
    """An image file, and what is predicted of it, or why it cannot be read."""

    name: str  # of what is written of it, a path without suffix
    path: pathlib.Path
    values: np.ndarray | None = None  # float32 [H,W] or [H,W,3] of 0 to 255, at the file's size
    output: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)  # of `Predictor`
    inside: tuple[slice, slice] = (slice(None), slice(None))  # what of it the image covers
    unlike: tuple[str, ...] = ()  # in what it is unlike the images trained on
    error: str = ""  # why it could not be read
    orientation: int = 1  # by EXIF, of the file's pixels against `values`

    def as_stored(self, values: np.ndarray) -> np.ndarray:
        """What is predicted of `values`, [H,W,...], on the pixels as the file has them."""
        down, right = self.orientation in (3, 4, 7, 8), self.orientation in (2, 3, 6, 7)
        values = values[:: -1 if down else 1, :: -1 if right else 1]
        return values.swapaxes(0, 1) if self.orientation >= 5 else values

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the file's image."""
        assert self.values is not None
        height, width = self.values.shape[:2]
        return height, width

    def covered(self, name: str) -> np.ndarray:
        """The part of an output that the image covers, [h,w,C]."""
        return self.output[name][self.inside]


def name_class(
    probabilities: np.ndarray, names: Sequence[str], labels: LabelSpec, threshold: float | None
) -> str:
    """The class of an image; of several labels those that it has, joined by "|".

    `threshold`: on the probability of class 1 of two, or of each of several labels; None: the most
    probable class is named, or each label from .5 on.
    """
    if labels.multi_label:
        cut = 0.5 if threshold is None else threshold
        return "|".join(name for name, p in zip(names, probabilities) if float(p) >= cut)
    if threshold is None:
        return names[int(probabilities.argmax())]
    return names[int(float(probabilities[1]) >= threshold)]


def stretch_bilinear(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """float [h,w,C] -> float32 [height,width,C]."""
    channels = [
        Image.fromarray(np.asarray(values[..., channel], np.float32)).resize(
            (width, height), Image.Resampling.BILINEAR
        )
        for channel in range(values.shape[-1])
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def predict_images(
    images: Iterable[ImagePrediction],
    predictor: Predictor,
    variables: Sequence[PyTree],
    *,
    resize: Resize,
    batch_size: int,
    appearance: Appearance | None = None,
) -> Iterator[ImagePrediction]:
    """Adds the outputs, in batches; images that could not be read are passed on.

    The networks are of one side, `variables` are those of each, `resize` is as in training, and
    `appearance` is that of the images trained on.
    """
    numbered = enumerate(images)
    while batch := list(itertools.islice(numbered, batch_size)):
        readable = [(place, image.values) for place, image in batch if image.values is not None]
        outputs: dict[int, Mapping[str, np.ndarray]] = {}
        unlike: dict[int, tuple[str, ...]] = {}
        if readable:
            # The last batch is filled up, since another size would be compiled anew.
            filled = [readable[i % len(readable)] for i in range(batch_size)]
            fitted = np.stack([resize.image(values) for _, values in filled])
            places = np.array([place for place, _ in filled])
            if appearance is not None:
                shapes = np.array([values.shape[:2] for _, values in filled])
                unlike = dict(zip(places.tolist(), appearance.unlike(fitted, shapes)))
            arrays = jax.device_get(predictor(variables, fitted, places))
            for row, (place, _) in enumerate(readable):
                outputs[place] = {name: values[row] for name, values in arrays.items()}
        for place, image in batch:
            if place not in outputs:
                yield image
                continue
            inside = resize.inside(*image.sides)
            said = unlike.get(place, ())
            yield dataclasses.replace(image, output=outputs[place], inside=inside, unlike=said)
