"""Which images of a test set are shown, which slices of a volume, and what is written beside."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from multimix_jax.evaluation.evaluate import EvalSet, Predictions
from multimix_jax.names import Head
from multimix_jax.reporting import pictures
from multimix_jax.runs.picture_files import Picture, shrink_pictures

Row = Mapping[str, float | int | str]
Saliency = Callable[[np.ndarray], Sequence[np.ndarray] | None]


def of_predictions(
    eval_set: EvalSet,
    predictions: Predictions,
    chosen: np.ndarray,
    saliency: Saliency | None = None,
) -> Iterator[Picture]:
    """The pictures of some images of a set; of a volume three slices.

    Args:
      eval_set: the set, whose images are read one by one.
      predictions: for the whole set.
      chosen: int [n], places of the images in the set.
      saliency: (places) -> maps [H,W,1], or None where there are none.
    """
    maps = None if saliency is None else saliency(chosen)
    for row, index in enumerate(chosen):
        (image,) = eval_set.images(chosen[row : row + 1])
        gray = pictures.as_gray(image)
        known = predictions.masks and predictions.has_mask[index]
        truth = predictions.truths[index] if known else None
        distance = None if predictions.distance is None else predictions.distance[index]
        for place, at in slices(gray if truth is None else truth):
            yield Picture(
                id=predictions.ids[index],
                slice=place,
                image=gray[at],
                truth=None if truth is None else truth[at],
                masks={Head(name): masks[index][at] for name, masks in predictions.masks.items()},
                distance=None if distance is None else distance[at],
                saliency=None if maps is None else maps[row],
            )


def examples(eval_set: EvalSet, predictions: Predictions, count: int) -> list[Picture]:
    """Pictures of `count` images of a set with a mask, the same ones for every model."""
    known = np.flatnonzero(predictions.has_mask)
    if not predictions.masks or not len(known):
        return []
    places = np.linspace(0, len(known) - 1, min(count, len(known))).astype(int)
    return list(of_predictions(eval_set, predictions, known[places]))


def gallery(
    eval_set: EvalSet,
    predictions: Predictions,
    rows: Sequence[Row],
    *,
    count: int,
    side: int,
    saliency: Saliency | None = None,
) -> list[Picture]:
    """Pictures of `count` images of a set, from the worst to the best, to look through.

    Args:
      eval_set, predictions, saliency: see `of_predictions`.
      rows: the figures of each image of the set.
      count: of images at most; of a volume there are three slices.
      side: in pixels, at most.
    """
    chosen = instructive(rows, count)
    shown = [
        dataclasses.replace(
            picture,
            image=picture.image.mean(axis=-1, keepdims=True).round().astype(np.uint8),
            distance=None,
            saliency=None if picture.saliency is None else pictures.as_gray(picture.saliency),
        )
        for picture in of_predictions(eval_set, predictions, chosen, saliency)
    ]
    return shrink_pictures(shown, side)


def draw(shown: Sequence[Picture], path: pathlib.Path, rows: Sequence[Row]) -> None:
    """Writes a figure with a row of panels for each picture.

    Args:
      shown: of one test set.
      path: of the PNG.
      rows: the figures of each image of the set, for the captions.
    """
    by_id = {row["id"]: row for row in rows}
    titles, drawn = pictures.table(shown)
    captions = [pictures.with_slice(caption(by_id[one.id]), one.slice) for one in shown]
    pictures.grid(drawn, path, columns=titles, rows=captions)


def instructive(rows: Sequence[Row], count: int) -> np.ndarray:
    """Which images to show: evenly from the worst to the best, of those with a Dice if any has one.

    What has none is ordered by the probability of its true class, or of its least likely one.
    """
    scored = any("dice" in row for row in rows)
    known = [
        (float(row["dice"]) if scored else min(of_truth(row).values()), index)
        for index, row in enumerate(rows)
        if ("dice" in row if scored else of_truth(row))
    ]
    order = np.array([index for _, index in sorted(known)])
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return order[places]


def caption(row: Row) -> str:
    """Name and main figures of an image."""
    lines = [str(row["id"]).rpartition("/")[2]]
    if "dice" in row:
        lines.append(f"Dice {float(row['dice']):.3f}")
    least_likely = sorted(of_truth(row).items(), key=lambda item: item[1])[:3]
    lines += [f"is {truth}: {probability:.2f}" for truth, probability in least_likely]
    return "\n".join(lines)


def of_truth(row: Row) -> dict[str, float]:
    """The probability of the class that an image has; of independent ones of each as it is.

    {} where nothing is known of classes.
    """
    probabilities = {
        name.removeprefix("probability_"): float(row[name])
        for name in row
        if name.startswith("probability_")
    }
    if "label" in row:
        return dict([list(probabilities.items())[int(row["label"])]])
    return {
        name if row[f"label_{name}"] else f"not {name}": p if row[f"label_{name}"] else 1 - p
        for name, p in probabilities.items()
    }


def slices(volume: np.ndarray) -> list[tuple[int, Any]]:
    """Places and indices of the pictures in [H,W,C]: itself, at -1; in [H,W,Z,C]: three along Z.

    They stand at a quarter, half and three quarters of where it is not zero.
    """
    if volume.ndim == 3:
        return [(-1, ...)]
    filled = np.flatnonzero(volume.any(axis=(0, 1, 3)))
    ends = (filled[0], filled[-1]) if len(filled) else (0, volume.shape[2] - 1)
    places = [round(ends[0] + share * (ends[1] - ends[0])) for share in (0.25, 0.5, 0.75)]
    return [(place, np.s_[:, :, place]) for place in places]
