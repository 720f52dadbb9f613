"""Pictures of images, of what is true and of what is predicted of them."""

import pathlib
import re
import textwrap
from collections.abc import Iterable, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from multimix_jax.evaluation.geometry import surface
from multimix_jax.names import Head
from multimix_jax.runs.picture_files import Picture, stack

TRUTH_COLOR = (64, 220, 96)
PREDICTION_COLOR = (255, 96, 32)
LONGEST = 60  # characters of a line of text in a figure
ACROSS = 26  # characters beside a picture
CELL = 1.9  # inches a side of a cell of a grid
SHARE = 0.96  # of a cell's side that a picture's longer one fills


def title(head: Head) -> str:
    """How the picture of a mask is called: 'prediction', 'prediction, sdf', ..."""
    return f"prediction, {head.short}" if head.short else "prediction"


def panels(picture: Picture) -> dict[str, np.ndarray]:
    """All there is to show of an image or a slice: uint8 [H,W,3] by title."""
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
    """Titles, and a row of panels for each picture; one without a truth is left white there, since
    the bare image would say that nothing is to be found."""
    rows = [panels(picture) for picture in pictures]
    titles = max(map(list, rows), key=len)
    blank = lambda row: np.full_like(row["image"], 255)
    return titles, [[row.get(title, blank(row)) for title in titles] for row in rows]


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
    """A text that matplotlib takes as it is: dollars would begin a formula, SVG files may hold no
    control characters, and beside a line of any length there would be no room for a figure."""
    shown = "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    half = LONGEST // 2
    lines = [
        line if len(line) <= LONGEST else f"{line[:half]}…{line[1 - half :]}"
        for line in shown.split("\n")
    ]
    return "\n".join(lines).replace("$", r"\$")


def file_name(text: str) -> str:
    """A text as a part of the name of a file: letters, digits and -+. stay as they are."""
    return re.sub(r"[^\w.+-]+", "_", text)


def mosaic(pictures: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of uint8 pictures [H,W,3] as one picture."""
    flat = stack([picture for row in pictures for picture in row])
    rows = flat.reshape(len(pictures), -1, *flat.shape[1:])
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def overlay(
    image: np.ndarray, *, truth: np.ndarray | None = None, mask: np.ndarray | None = None
) -> np.ndarray:
    """An image, uint8 [H,W,C], with the outlines of the true (green) and the predicted masks
    (orange), bool [H,W,C'], as uint8 [H,W,3]."""
    picture = image.copy() if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, axis=-1)
    for outlined, color in ((truth, TRUTH_COLOR), (mask, PREDICTION_COLOR)):
        if outlined is not None:
            for channel in range(outlined.shape[-1]):
                picture[surface(outlined[..., channel])] = color
    return picture


def heat(saliency: np.ndarray) -> np.ndarray:
    """Saliency [H,W,1] -> uint8 [H,W,3], from its least to its 99th percentile, dark to bright."""
    low, high = saliency.min(), np.percentile(saliency, 99)
    scaled = np.clip((saliency[..., 0] - low) / max(high - low, 1e-12), 0.0, 1.0)
    return _colored("inferno", scaled)


def signed(distance: np.ndarray) -> np.ndarray:
    """A signed distance map [H,W,1] in [-1,1] -> uint8 [H,W,3]: blue inside, red outside."""
    return _colored("seismic", (distance[..., 0].astype(np.float32) + 1) / 2)


def _colored(name: str, shares: np.ndarray) -> np.ndarray:
    return matplotlib.colormaps[name]((shares * 255).astype(np.uint8), bytes=True)[..., :3]


def grid(
    pictures: Sequence[Sequence[np.ndarray]],
    path: pathlib.Path,
    *,
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    corners: Sequence[Sequence[str]] = (),
) -> None:
    """Writes a PNG of pictures side by side, and the folder that it lies in.

    Args:
      pictures: rows of uint8 pictures [H,W], [H,W,1] or [H,W,3].
      path: of the PNG.
      columns, rows: titles.
      corners: a text for the upper left corner of each picture.
    """
    width = max(map(len, pictures))
    figure = Figure(figsize=(CELL * width, CELL * len(pictures)), dpi=110)
    # One set of axes for all, with cells of side 1: matplotlib takes far longer to make axes than
    # to draw pictures.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for i, row in enumerate(pictures):
        for j, picture in enumerate(row):
            sides = np.array(picture.shape[:2])
            down, right = sides / sides.max() * SHARE / 2
            extent = (j + 0.5 - right, j + 0.5 + right, i + 0.5 + down, i + 0.5 - down)
            colored = overlay(picture.reshape(*sides, -1))
            axes.imshow(colored, interpolation="nearest", extent=extent, aspect="auto")
            if corners:
                place = (extent[0] + 0.04, extent[3] + 0.04)
                number = axes.text(
                    *place, plain(corners[i][j]), va="top", color="white", fontsize=8
                )
                if corners[i][j]:  # white on a film that may be white
                    number.set_bbox({"facecolor": "black", "edgecolor": "none", "pad": 1.5})
    for j, text in enumerate(columns):
        axes.text(j + 0.5, -0.01, _within(text), ha="center", va="bottom", fontsize=9)
    for i, text in enumerate(rows):
        beside = axes.text(-0.01, i + 0.5, _within(text), ha="right", va="center", fontsize=8)
        beside.set(rotation=90, multialignment="center")
    axes.set(xlim=(0, width), ylim=(len(pictures), 0))  # last, since imshow sets them, too
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.05)


def _within(text: str) -> str:
    """Plain text, in lines that are no longer than a picture."""
    return "\n".join(textwrap.fill(line, ACROSS) for line in plain(text).split("\n"))
