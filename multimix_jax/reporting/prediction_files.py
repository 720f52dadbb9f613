"""Predictions for image files, as pictures and a table."""

import csv
import dataclasses
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from multimix_jax.errors import as_text
from multimix_jax.inference.images import ImagePrediction, name_class, stretch_bilinear
from multimix_jax.inference.predictor import DISAGREEMENT, SALIENCY, SPREAD, Predictor
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Head
from multimix_jax.reporting import pictures

OVERLAY_SIDE = 1024  # pixels; larger films are shown smaller


@dataclasses.dataclass(frozen=True)
class OutputOptions:
    """How predictions are written: numbers stand where classes and masks have no names."""

    labels: LabelSpec
    predictor: Predictor
    threshold: float | None = None  # see `name_class`


def write_predictions(
    out: pathlib.Path,
    predictions: Iterable[ImagePrediction],
    options: OutputOptions,
    in_threads: Callable[..., Iterable[Any]],
) -> list[ImagePrediction]:
    """Writes `predictions.csv`, a line as soon as an image is done, and pictures below `out`.

    These are `masks/NAME.png` (255 inside; of several masks `masks/MASK/NAME.png`), `overlays/`,
    `saliency/` and `disagreement/`. `in_threads`: (function, items) -> results in order. Gives the
    images that could not be read; they are in `unreadable.txt`, too.
    """
    out.mkdir(parents=True, exist_ok=True)

    def write(prediction: ImagePrediction) -> tuple[ImagePrediction, dict[str, Any] | None]:
        return prediction, None if prediction.error else _write(prediction, out, options)

    unreadable = []
    with (out / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = None
        for prediction, row in in_threads(write, predictions):
            if row is None:
                unreadable.append(prediction)
                with (out / "unreadable.txt").open("a", encoding="utf-8") as errors:
                    errors.write(f"{prediction.error}\n")
                continue
            if writer is None:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
            writer.writerow(row)
            file.flush()
    return unreadable


def _write(
    prediction: ImagePrediction, out: pathlib.Path, options: OutputOptions
) -> dict[str, Any]:
    """Writes the pictures of an image, and gives its row of the table."""
    height, width = prediction.sides
    stored = (width, height) if prediction.orientation < 5 else (height, width)
    row: dict[str, Any] = {"image": as_text(str(prediction.path))}
    row |= zip(("width", "height"), stored)
    if Head.CLASSES in prediction.output:
        row |= _class_columns(prediction, options)
    if Head.MASK in prediction.output:
        row |= _write_masks(prediction, out, options)
    for name, folder in ((SPREAD[Head.MASK], "disagreement"), (SALIENCY, "saliency")):
        if name in prediction.output:
            values = prediction.covered(name).max(axis=-1, keepdims=True)
            values = stretch_bilinear(values, *_within(height, width, max(values.shape)))
            _write_picture(out / folder, prediction, pictures.heat(values))
    return row


def _class_columns(prediction: ImagePrediction, options: OutputOptions) -> dict[str, str]:
    probabilities = prediction.output[Head.CLASSES]
    names = list(options.labels.class_names) or list(map(str, range(len(probabilities))))
    columns = {"class": name_class(probabilities, names, options.labels, options.threshold)}
    columns |= {f"probability_{name}": f"{p:.6f}" for name, p in zip(names, probabilities)}
    spread = prediction.output.get(SPREAD[Head.CLASSES])
    if spread is not None:
        columns |= {f"spread_{name}": f"{value:.6f}" for name, value in zip(names, spread)}
    return columns


def _write_masks(
    prediction: ImagePrediction, out: pathlib.Path, options: OutputOptions
) -> dict[str, str]:
    height, width = prediction.sides
    probabilities = prediction.covered(Head.MASK)
    masks = options.predictor.masks(stretch_bilinear(probabilities, height, width))
    columns = {}
    count = masks.shape[-1]
    names = options.labels.mask_names or tuple(map(str, range(count)))
    for channel, name in enumerate(names if count > 1 else [""]):
        # A folder for each, as for training: image a_b, and mask b of image a, lie apart.
        _write_picture(out / "masks" / name, prediction, masks[..., channel] * np.uint8(255))
        suffix = f"_{name}" if name else ""
        columns[f"area_fraction{suffix}"] = f"{masks[..., channel].mean():.6f}"
        if DISAGREEMENT in prediction.output:
            columns[f"disagreement{suffix}"] = f"{prediction.output[DISAGREEMENT][channel]:.6f}"
    # Of large films the outlines are drawn after shrinking, in which they would vanish.
    sides = _within(height, width, OVERLAY_SIDE)
    assert prediction.values is not None
    pixels = np.clip(np.rint(prediction.values), 0, 255).astype(np.uint8)
    shown = np.asarray(Image.fromarray(pixels).resize(sides[::-1])).reshape(*sides, -1)
    if sides != (height, width):
        masks = options.predictor.masks(stretch_bilinear(probabilities, *sides))
    _write_picture(out / "overlays", prediction, pictures.overlay(shown, mask=masks))
    return columns


def _within(height: int, width: int, most: int) -> tuple[int, int]:
    """Sides of at most `most`, of the same shape."""
    factor = min(1.0, most / max(height, width))
    return max(round(height * factor), 1), max(round(width * factor), 1)


def _write_picture(folder: pathlib.Path, of: ImagePrediction, picture: np.ndarray) -> None:
    """Its pixels lie as those of the image file, and by EXIF are to be turned as these are."""
    path = folder / f"{of.name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if of.orientation != 1:
        exif[ExifTags.Base.Orientation] = of.orientation
    image = Image.fromarray(np.ascontiguousarray(of.as_stored(picture)))
    image.save(path, compress_level=1, exif=exif)
