"""Pictures of what a model sees and says."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Row = Mapping[str, float | int | str]

TRUTH_COLOR = (64, 220, 96)
PREDICTION_COLOR = (255, 96, 32)
CELL = 1.9  # inches a side of a cell of a grid
SHARE = 0.96  # of a cell's side that a picture's longer one fills


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


def slices(volume: np.ndarray) -> list[tuple[str, Any]]:
    """Names and indices of the pictures in [H,W,C]: itself; or in [H,W,Z,C]: three along Z.

    They stand at a quarter, half and three quarters of where it is not zero.
    """
    if volume.ndim == 3:
        return [("", ...)]
    filled = np.flatnonzero(volume.any(axis=(0, 1, 3)))
    ends = (filled[0], filled[-1]) if len(filled) else (0, volume.shape[2] - 1)
    places = [round(ends[0] + share * (ends[1] - ends[0])) for share in (0.25, 0.5, 0.75)]
    return [(f"\nslice {place}", np.s_[:, :, place]) for place in places]


def middle(image: np.ndarray) -> np.ndarray:
    """The picture [H,W,C] that an image is, or the middle slice of a volume, as uint8."""
    return as_gray(image)[:, :, image.shape[2] // 2] if image.ndim == 4 else as_gray(image)


def as_gray(image: np.ndarray) -> np.ndarray:
    """An image or a volume as uint8: from its 1st to its 99th percentile, if it is not yet."""
    if image.dtype == np.uint8:
        return image
    image = image.astype(np.float32)
    low, high = np.percentile(image, (1, 99))
    scaled = np.clip((image - low) / max(high - low, 1e-12), 0.0, 1.0)
    return (255 * scaled).round().astype(np.uint8)


def stacked(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """[n,H,W,C] of pictures [h,w,C], each filled up with zeros to the largest sides."""
    sides = np.max([picture.shape for picture in pictures], axis=0)
    grow = lambda x: np.pad(x, [(0, side - own) for side, own in zip(sides, x.shape, strict=True)])
    return np.stack([grow(picture) for picture in pictures])


def shrunk(pictures: np.ndarray, side: int) -> np.ndarray:
    """[n,H,W,C] of at most `side` pixels a side, of any type: means of square blocks of pixels."""
    step = -(-max(pictures.shape[1:3]) // side)
    if step <= 1:
        return pictures
    height, width = (-(-length // step) * step for length in pictures.shape[1:3])
    grown = ((0, 0), (0, height - pictures.shape[1]), (0, width - pictures.shape[2]), (0, 0))
    blocks = np.pad(pictures, grown, mode="edge").reshape(
        len(pictures), height // step, step, width // step, step, -1
    )
    return blocks.mean(axis=(2, 4)).round().astype(pictures.dtype)


def mosaic(pictures: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of uint8 pictures [H,W,3] as one picture."""
    flat = stacked([picture for row in pictures for picture in row])
    _, height, width, channels = flat.shape
    flat = flat.reshape(len(pictures), -1, height, width, channels)
    return flat.swapaxes(1, 2).reshape(len(pictures) * height, -1, channels)


def overlay(
    image: np.ndarray, *, truth: np.ndarray | None = None, mask: np.ndarray | None = None
) -> np.ndarray:
    """An image with the outlines of the true (green) and the predicted masks (orange).

    Args:
      image: uint8 [H,W,C].
      truth, mask: bool [H,W,C'], or None.

    Returns:
      uint8 [H,W,3].
    """
    picture = image.copy() if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, axis=-1)
    for outlined, color in ((truth, TRUTH_COLOR), (mask, PREDICTION_COLOR)):
        if outlined is not None:
            for channel in range(outlined.shape[-1]):
                picture[_outline(outlined[..., channel])] = color
    return picture


def _outline(mask: np.ndarray) -> np.ndarray:
    """Pixels of the mask with a neighbour outside."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def heat(saliency: np.ndarray) -> np.ndarray:
    """Saliency [H,W,1] -> uint8 [H,W,3], from its least to its 99th percentile, dark to bright."""
    low, high = saliency.min(), np.percentile(saliency, 99)
    scaled = np.clip((saliency[..., 0] - low) / max(high - low, 1e-12), 0.0, 1.0)
    return _colors("inferno")[(scaled * 255).astype(np.uint8)]


@functools.cache
def _colors(name: str) -> np.ndarray:
    """uint8 [256,3] of a colour map."""
    return (matplotlib.colormaps[name](np.arange(256))[..., :3] * 255).astype(np.uint8)


def signed(distance: np.ndarray) -> np.ndarray:
    """A signed distance map [H,W,1] in [-1,1] -> uint8 [H,W,3]: blue inside, red outside."""
    shares = (distance[..., 0].astype(np.float32) + 1) / 2
    return _colors("seismic")[(shares * 255).astype(np.uint8)]


def grid(
    pictures: Sequence[Sequence[np.ndarray]],
    path: pathlib.Path,
    *,
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    corners: Sequence[Sequence[str]] = (),
) -> None:
    """Writes a PNG of pictures side by side.

    Args:
      pictures: rows of uint8 pictures [H,W], [H,W,1] or [H,W,3].
      path: of the PNG; its folder is created.
      columns, rows: titles.
      corners: a text for the upper left corner of each picture.
    """
    width = max(len(row) for row in pictures)
    figure = Figure(figsize=(CELL * width, CELL * len(pictures)), dpi=110)
    # One set of axes for all: matplotlib takes far longer to make axes than to draw pictures.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for i, row in enumerate(pictures):
        for j, picture in enumerate(row):
            left, right, top, bottom = _placed(picture, i, j)
            axes.imshow(
                picture[..., 0] if picture.ndim == 3 and picture.shape[-1] == 1 else picture,
                cmap="gray",
                vmin=0,
                vmax=255,
                interpolation="nearest",
                extent=(left, right, bottom, top),
                aspect="auto",
            )
            if corners:
                inset = (left + 0.03, top + 0.03, corners[i][j])
                axes.text(*inset, va="top", color="white", fontsize=8)
            if i == 0 and j < len(columns):
                axes.text(j + 0.5, top - 0.03, columns[j], ha="center", va="bottom", fontsize=9)
            if j == 0 and i < len(rows):
                axes.text(
                    left - 0.03,
                    i + 0.5,
                    rows[i],
                    fontsize=8,
                    ha="right",
                    va="center",
                    rotation=90,
                    multialignment="center",
                )
    axes.set(xlim=(0, width), ylim=(len(pictures), 0))  # last, since imshow sets them, too
    path.parent.mkdir(parents=True, exist_ok=True)
    # What `bbox_inches="tight"` finds by drawing everything once more.
    box = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
    figure.savefig(path, dpi="figure", bbox_inches=box.padded(0.05))


def _placed(picture: np.ndarray, row: int, column: int) -> tuple[float, float, float, float]:
    """Left, right, top and bottom of a picture in the middle of its cell; cells have sides of 1."""
    height, width = np.array(picture.shape[:2]) / max(picture.shape[:2]) * SHARE
    x, y = column + 0.5, row + 0.5
    return x - width / 2, x + width / 2, y - height / 2, y + height / 2
