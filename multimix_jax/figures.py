"""Pictures of what a model sees and says."""

import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

Row = Mapping[str, float | int | str]

TRUTH_COLOR = (64, 220, 96)
PREDICTION_COLOR = (255, 96, 32)


def instructive(rows: Sequence[Row], count: int) -> np.ndarray:
    """Which images to show: evenly from the worst to the best Dice, else over the probabilities."""
    scored = next((n for row in rows for n in row if n == "dice"), None)
    if scored is None:
        scored = [n for row in rows for n in row if n.startswith("probability_")][-1]
    known = [(float(row[scored]), index) for index, row in enumerate(rows) if scored in row]
    order = np.array([index for _, index in sorted(known)])
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return order[places]


def caption(row: Row) -> str:
    """Name and main figures of an image."""
    lines = [str(row["id"]).rpartition("/")[2]]
    if "dice" in row:
        lines.append(f"Dice {float(row['dice']):.3f}")
    classes = [name for name in row if name.startswith("probability_")]
    if classes:
        truth = classes[int(row["label"])]
        lines.append(f"is {truth.removeprefix('probability_')}: {float(row[truth]):.2f}")
    return "\n".join(lines)


def mosaic(pictures: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of uint8 pictures [H,W,3] of one size, as one picture."""
    return np.concatenate([np.concatenate(row, axis=1) for row in pictures], axis=0)


def overlay(
    image: np.ndarray, *, truth: np.ndarray | None = None, mask: np.ndarray | None = None
) -> np.ndarray:
    """A grey image with the outlines of the true (green) and the predicted mask (orange).

    Args:
      image: uint8 [H,W,C].
      truth, mask: bool [H,W,C'], or None.

    Returns:
      uint8 [H,W,3].
    """
    picture = np.repeat(image[..., :1], 3, axis=-1).copy()
    for outlined, color in ((truth, TRUTH_COLOR), (mask, PREDICTION_COLOR)):
        if outlined is not None:
            picture[_outline(np.asarray(outlined.any(axis=-1)))] = color
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
    return (matplotlib.colormaps["inferno"](scaled)[..., :3] * 255).astype(np.uint8)


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
    figure = Figure(figsize=(1.9 * width + 1.2, 2.0 * len(pictures) + 0.4), layout="constrained")
    axes = figure.subplots(len(pictures), width, squeeze=False)
    for i, row in enumerate(pictures):
        for j, axis in enumerate(axes[i]):
            axis.set_xticks([])
            axis.set_yticks([])
            if j >= len(row):
                axis.set_axis_off()
                continue
            picture = row[j][..., 0] if row[j].ndim == 3 and row[j].shape[-1] == 1 else row[j]
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            if corners:
                axis.text(
                    *(0.03, 0.97, corners[i][j]),
                    **dict(transform=axis.transAxes, va="top", color="white", fontsize=8),
                )
            if i == 0 and j < len(columns):
                axis.set_title(columns[j], fontsize=9)
            if j == 0 and i < len(rows):
                axis.set_ylabel(rows[i], fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
