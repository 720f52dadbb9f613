"""Pictures of images, of what is true and of what is predicted of them."""

import functools
import pathlib
from collections.abc import Iterable, Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from multimix_jax.names import Head
from multimix_jax.runs.picture_files import Picture, stack

TRUTH_COLOR = (64, 220, 96)
PREDICTION_COLOR = (255, 96, 32)
CELL = 1.9  # inches a side of a cell of a grid
SHARE = 0.96  # of a cell's side that a picture's longer one fills


def title(head: Head) -> str:
    """How the picture of a mask is called: 'prediction', 'prediction, sdf', ..."""
    return f"prediction, {head.short}" if head.short else "prediction"


def panels(picture: Picture) -> dict[str, np.ndarray]:
    """All there is to show of an image or a slice, by title, in the order of the heads.

    Returns:
      uint8 [H,W,3] each.
    """
    image, truth = picture.image, picture.truth
    shown = {"image": overlay(image)}
    if truth is not None:
        shown["truth"] = overlay(image, truth=truth)
    for head in Head:
        if head in picture.masks:
            shown[title(head)] = overlay(image, truth=truth, mask=picture.masks[head])
    if picture.distance is not None:
        shown["distance"] = signed(picture.distance)
    if picture.saliency is not None:
        shown["saliency"] = heat(picture.saliency)
    return shown


def table(pictures: Iterable[Picture]) -> tuple[list[str], list[list[np.ndarray]]]:
    """Titles, and a row of panels for each picture; one without a truth has the image there."""
    rows = [panels(picture) for picture in pictures]
    titles = max((list(row) for row in rows), key=len)
    return titles, [[row.get(title, row["image"]) for title in titles] for row in rows]


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


def name_of(picture: Picture) -> str:
    """What is written beside a picture: its id without folders, and the slice."""
    return with_slice(picture.id.rpartition("/")[2], picture.slice)


def with_slice(text: str, place: int, separator: str = "\n") -> str:
    """A text with the number of the slice; as it is for an image (-1)."""
    return text if place < 0 else f"{text}{separator}slice {place}"


def plain(text: str) -> str:
    """A text that matplotlib takes as it is: dollars would begin a formula, and SVG files may hold
    no control characters."""
    shown = (c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return "".join(shown).replace("$", r"\$")


def mosaic(pictures: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of uint8 pictures [H,W,3] as one picture."""
    flat = stack([picture for row in pictures for picture in row])
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
                inset = (left + 0.03, top + 0.03, plain(corners[i][j]))
                axes.text(*inset, va="top", color="white", fontsize=8)
            if i == 0 and j < len(columns):
                axes.text(
                    j + 0.5, top - 0.03, plain(columns[j]), ha="center", va="bottom", fontsize=9
                )
            if j == 0 and i < len(rows):
                axes.text(
                    left - 0.03,
                    i + 0.5,
                    plain(rows[i]),
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
