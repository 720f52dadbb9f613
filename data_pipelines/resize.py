"""The square that images of any size and shape are fitted to."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.files import images
from multimix_jax.labels import VOID

FITS = ("squash", "pad")


@dataclasses.dataclass(frozen=True)
class ResizeSpec:
    """How images are fitted to the square of `size` pixels, a multiple of 16.

    To 'squash' scales height and width apart; to 'pad' keeps their ratio, with black beside.
    """

    size: int
    fit: str = "squash"
    channels: int = 1  # or 3, for red, green and blue

    def __post_init__(self) -> None:
        if self.size <= 0 or self.size % 16:
            raise DataError(
                f"size={self.size}, but images are prepared at a positive multiple of 16; "
                "set --config.size to 64, 128, 256, ..."
            )
        if self.fit not in FITS:
            raise DataError(f"fit={self.fit!r}; set --config.fit to {' or '.join(FITS)}")
        if self.channels not in (1, 3):
            raise DataError(
                f"images of {self.channels} channels cannot be prepared; set "
                "--config.model.in_channels to 1 (grey) or 3 (colour)"
            )

    @property
    def variant(self) -> str:
        """Part of the name of sets that are prepared like this."""
        fit = "" if self.fit == "squash" else f"_{self.fit}"
        return f"size{self.size}{fit}{'_rgb' if self.channels == 3 else ''}"

    def inside(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of the square that an image of that size covers."""
        if self.fit == "squash":
            return slice(0, self.size), slice(0, self.size)
        scale = self.size / max(height, width)
        covered = [max(1, round(side * scale)) for side in (height, width)]
        rows, columns = ((self.size - side) // 2 for side in covered)
        return slice(rows, rows + covered[0]), slice(columns, columns + covered[1])

    def image(self, values: np.ndarray) -> np.ndarray:
        """Grey values [H, W] or colours [H, W, 3] in 0..255 -> uint8 [size, size, channels].

        Bilinear and antialiased; of 3 channels grey values become equal red, green and blue.
        """
        planes = [values] if values.ndim == 2 else list(np.moveaxis(values, -1, 0))
        if len(planes) not in (1, self.channels):
            raise ValueError(f"values are {values.shape}, for {self.channels} channels")
        return self._place(planes * (self.channels // len(planes)), images.resize_image)

    def masks(self, masks: np.ndarray) -> np.ndarray:
        """bool, or uint8 with VOID, [H, W, C] -> uint8 [size, size, C]; see `images.resize_mask`.

        A pixel is VOID, in all channels, where at least half of its area is.
        """
        void = masks[..., 0] == VOID
        known = images.coverage(~void, *self._sides(void)) if void.any() else None
        resize = functools.partial(images.resize_mask, known=known)
        placed = self._place(list(np.moveaxis(masks == 1, -1, 0)), resize)
        if known is not None:
            placed[self.inside(*void.shape)][known <= 0.5] = VOID
        return placed

    def _sides(self, plane: np.ndarray) -> tuple[int, int]:
        rows, columns = self.inside(*plane.shape[:2])
        return rows.stop - rows.start, columns.stop - columns.start

    def _place(self, planes: list[np.ndarray], resize: Callable[..., np.ndarray]) -> np.ndarray:
        rows, columns = self.inside(*planes[0].shape)
        square = np.zeros((self.size, self.size, len(planes)), np.uint8)
        for channel, plane in enumerate(planes):
            square[rows, columns, channel] = resize(plane, *self._sides(plane))
        return square

    def spacing(self, spacing: tuple[float, float], height: int, width: int) -> np.ndarray:
        """Millimetres per pixel of an image of that size -> those of the square, float32 [2]."""
        rows, columns = self.inside(height, width)
        scale = height / (rows.stop - rows.start), width / (columns.stop - columns.start)
        return np.multiply(spacing, scale).astype(np.float32)
