"""Trained networks in Python: arrays or files of any size in, masks at that size, classes out."""

import dataclasses
import itertools
import os
import pathlib
import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from multimix_jax.errors import UsageError
from multimix_jax.inference.images import (
    ImageFiles,
    ImagePrediction,
    name_class,
    predict_images,
    stretch_bilinear,
)
from multimix_jax.inference.predictor import DISAGREEMENT, SALIENCY, SPREAD, Predictor
from multimix_jax.inference.saliency import KINDS
from multimix_jax.names import Checkpoint, Head
from multimix_jax.objectives.checks import check_pixels
from multimix_jax.runs.trained_model import TrainedModel, read_models

# Looked up when it is needed, as a plug-in: nothing else here knows of the pipelines.
IMAGE_FILES = "data_pipelines.image_files"
BATCH = 8  # images that are predicted together
Path = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What is predicted of an image [H,W], on the pixels as its file has them; None or {} where a
    network predicts no such thing.

    Attributes:
      image: the file, or the place in the list where it was an array.
      masks: bool [H,W,C], in the order of `LabelSpec.mask_names`.
      mask_probabilities: float32 [H,W,C], 0 to 1.
      classes: probability by name, calibrated on validation.
      named: the class, of independent ones those that it has, joined by "|"; '' without any.
      saliency: float32 [H,W,1], zero or more, where it was asked for.
      spread: standard deviation of each class's probability, of two answers or more.
      disagreement: float [C], 1 less the mean Dice of each answer's mask with that of all.
      unlike: in what the image is unlike those trained on, such as ("darker",): its prediction is
        not to be relied on.
    """

    image: str
    masks: np.ndarray | None = None
    mask_probabilities: np.ndarray | None = None
    classes: dict[str, float] = dataclasses.field(default_factory=dict)
    named: str = ""
    saliency: np.ndarray | None = None
    spread: dict[str, float] = dataclasses.field(default_factory=dict)
    disagreement: np.ndarray | None = None
    unlike: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ImagePredictor:
    """Networks that answer together for images of any size; made by `load`.

    `threshold`: on the probability of class 1 of two, or of each of several labels, from which it
    is named; None: the most probable class is, or each label from .5 on.
    """

    models: Sequence[TrainedModel]
    predictor: Predictor
    threshold: float | None
    files: ImageFiles

    def predict(self, images: Any) -> list[Prediction]:
        """Of each image, in their order.

        Args:
          images: file names, folders of them, or arrays of 0 to 255: grey [H,W] or [H,W,1], colour
            [H,W,3]; a list, one alone, or an array [N,H,W,C].

        Raises:
          UsageError: a file cannot be read, or an array holds no pixels in that range.
        """
        read = list(self.files.in_threads(self._read, enumerate(_listed(images, self.files))))
        for image in read:
            if image.error:
                raise UsageError(image.error)
        return [self._shown(image) for image in self.outputs(read, len(read))]

    def read(self, name: str, path: pathlib.Path) -> ImagePrediction:
        """An image file as for training, or why it cannot be read."""
        try:
            values = self.files.read(path, self.models[0].channels)[0]
            return ImagePrediction(name, path, values, orientation=self.files.orientation(path))
        except (UsageError, OSError) as error:
            return ImagePrediction(name, path, error=str(error))

    def outputs(self, images: Iterable[ImagePrediction], count: int) -> Iterator[ImagePrediction]:
        """Adds the outputs of the networks to `count` images; see `predict_images`."""
        first = self.models[0]
        return predict_images(
            images,
            self.predictor,
            [model.variables for model in self.models],
            resize=self.files.resize(first.size, first.spec.data.fit, first.channels),
            batch_size=max(1, min(BATCH, count)),
            appearance=first.appearance,
        )

    def _read(self, numbered: tuple[int, Any]) -> ImagePrediction:
        number, image = numbered
        if isinstance(image, (str, os.PathLike)):
            return self.read(os.fspath(image), pathlib.Path(image))
        values = _as_values(np.asarray(image), f"image {number}", self.models[0].channels)
        return ImagePrediction(str(number), pathlib.Path(str(number)), values)

    def _shown(self, image: ImagePrediction) -> Prediction:
        output, labels = image.output, self.models[0].labels
        values: dict[str, Any] = {}
        if Head.MASK in output:
            probabilities = stretch_bilinear(image.covered(Head.MASK), *image.sides)
            probabilities = image.as_stored(probabilities)
            values["mask_probabilities"] = probabilities
            values["masks"] = self.predictor.masks(probabilities)
            values["disagreement"] = output.get(DISAGREEMENT)
        if Head.CLASSES in output:
            names = labels.class_names or tuple(map(str, range(len(output[Head.CLASSES]))))
            values["classes"] = dict(zip(names, map(float, output[Head.CLASSES])))
            values["named"] = name_class(output[Head.CLASSES], names, labels, self.threshold)
            if SPREAD[Head.CLASSES] in output:
                values["spread"] = dict(zip(names, map(float, output[SPREAD[Head.CLASSES]])))
        if SALIENCY in output:
            saliency = stretch_bilinear(image.covered(SALIENCY), *image.sides)
            values["saliency"] = image.as_stored(saliency)
        return Prediction(image.name, unlike=image.unlike, **values)


def load(
    run: Path,
    which: str = Checkpoint.BEST,
    *,
    ensemble: Sequence[Path] = (),
    flips: bool = False,
    dropout: int = 0,
    saliency: str = "none",
    threshold: float | None = None,
    seed: int = 0,
    quick: bool = False,
) -> ImagePredictor:
    """The networks of a run, and of an `ensemble` of more, ready to predict images of any size.

    Args:
      run, ensemble: folders of runs.
      which: 'best' on validation, or 'last'.
      flips: each network also looks from right to left, and their disagreement is told. Networks
        of the recipe do so always.
      dropout: answers of each network with dropout on.
      saliency: 'none', 'gradient', 'smoothgrad' or 'integrated'.
      threshold: see `ImagePredictor`; by default the one that was chosen on validation.
      seed: of dropout and of SmoothGrad.
      quick: compiled in less time, for a few images; on CPU each takes longer then.

    Raises:
      UsageError: there is no such run, it is of volumes, the networks cannot answer together, or an
        argument is out of its range.
    """
    for name, value, known in (("which", which, Checkpoint), ("saliency", saliency, KINDS)):
        if value not in list(known):
            raise UsageError(f"{name}={value!r} is unknown; use one of {', '.join(known)}")
    if dropout < 0:
        raise UsageError(f"dropout={dropout}; set it to 0, for none, or to a number of answers")
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"threshold={threshold} is no probability; set it to a number from 0 to 1")
    runs = [run, *ensemble]
    models = read_models(list(map(pathlib.Path, runs)), Checkpoint(which))
    for path, model in zip(runs, models):
        if dropout and not model.spec.objective.model.get("dropout_rate"):
            raise UsageError(
                f"{path} was trained without dropout (config.model.dropout_rate=0.0), so that "
                "--dropout makes no difference; leave it out, or use --flips or --ensemble"
            )
    predictor = Predictor(
        [model.member for model in models],
        compare_flips=flips,
        draws=dropout,
        saliency=saliency,
        seed=seed,
        quick=quick,
    )
    try:
        files: Any = pkgutil.resolve_name(IMAGE_FILES)
    except ImportError as error:
        raise UsageError(f"images are read by {IMAGE_FILES} ({error}); install it") from error
    return ImagePredictor(models, predictor, _threshold(models, threshold), files)


def _threshold(models: Sequence[TrainedModel], asked: float | None) -> float | None:
    """What was asked for, or the mean of the networks' own."""
    if asked is None:
        own = [model.calibration.threshold for model in models]
        known = [threshold for threshold in own if threshold is not None]
        return float(np.mean(known)) if len(known) == len(models) else None
    classes = models[0].outputs.get(Head.CLASSES)
    if classes is None or (not models[0].labels.multi_label and classes != (2,)):
        raise UsageError("--threshold is for two classes, or independent ones; leave it out")
    return asked


def _listed(images: Any, files: ImageFiles) -> list[Any]:
    """One image, or folder, or several -> images, those of folders in the order of their names."""
    alone = isinstance(images, (str, os.PathLike)) or getattr(images, "ndim", 0) in (2, 3)
    folder = lambda image: isinstance(image, (str, os.PathLike)) and os.path.isdir(image)
    return list(
        itertools.chain.from_iterable(
            sorted(files.below(pathlib.Path(image))[0]) if folder(image) else [image]
            for image in ([images] if alone else images)
        )
    )


def _as_values(image: np.ndarray, name: str, channels: int) -> np.ndarray:
    """An array of grey values or colours -> float32 [H,W] or [H,W,3], as the network takes it."""
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[-1] != 3):
        raise UsageError(
            f"{name} is {list(image.shape)}, but images are [H,W], [H,W,1] or [H,W,3]: rows, "
            "columns, channels"
        )
    check_pixels(image, name)
    if image.ndim == 3 and channels == 1:  # luminance, as of files
        if image.dtype == np.uint8:
            image = np.asarray(Image.fromarray(image).convert("L"))
        else:
            image = image @ np.array([0.299, 0.587, 0.114])
    return image.astype(np.float32)
