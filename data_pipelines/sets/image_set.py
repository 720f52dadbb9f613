"""Data sets of images: each is resized once to the working size."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.errors import DataError
from data_pipelines.files import images, read_image
from data_pipelines.prepare import SetBuilder, Source
from data_pipelines.resize import ResizeSpec

# image, mask, millimetres from one row and from one column to the next: see `ImageSetBuilder.read`
DecodedImage = tuple[np.ndarray, np.ndarray | None, tuple[float, float]]


class ImageSetBuilder(SetBuilder):
    """Stores images as uint8 [size, size, channels] with their masks.

    A data set is a subclass that says where its files lie (`find`) and, where its files are
    unusual, how one example is read (`read`).
    """

    pixel_type = np.uint8

    def __init__(self, *, size: int, fit: str = "squash", channels: int = 1, **options: Any):
        """Args:
        size, fit, channels: of the prepared images, see `ResizeSpec`.
        options: source_dir, prepared_dir, name and exclude, as for `SetBuilder`.
        """
        self.resize = ResizeSpec(size, fit, channels)
        self.variant = self.resize.variant
        self.channels = channels
        self.example_bytes = size**2 * (channels + self.label_spec.mask_channels)
        super().__init__(**options)

    def read(self, source: Source) -> DecodedImage:
        """Decodes one example.

        Returns:
            image float32 [H, W], or [H, W, 3] of 3 channels, in 0..255; mask bool [H, W] or
            [H, W, C], or None; millimetres from one row and from one column of the source to the
            next, (0, 0) where unknown.
        """
        assert source.image is not None
        image, spacing = read_image(source.image, self.channels)
        return image, self.read_masks(source, image.shape[:2]), spacing

    def channel_of(self, mask: Path) -> int:
        """Which channel of the mask a file belongs to."""
        del mask
        return 0

    def read_masks(self, source: Source, shape: tuple[int, ...]) -> np.ndarray | None:
        """The union of an example's masks, by channel: bool [*shape, C]; None where it has none."""
        if not source.masks:
            return None
        union = np.zeros((*shape[:2], self.label_spec.mask_channels), bool)
        for path in source.masks:
            mask = images.read_mask(path)
            if mask.shape != shape:
                raise DataError(
                    f"{path} is {mask.shape[0]}x{mask.shape[1]} (rows x columns), but the mask of "
                    f"{source.image} must be {shape[0]}x{shape[1]}; export it again at that size"
                )
            union[..., self.channel_of(path)] |= mask
        if not union.any():
            raise DataError(
                f"{source.masks[0]} marks no pixel (no value above half of the full scale); "
                "draw the mask again, or remove the file to use the image without a mask"
            )
        return union

    def example(self, source: Source) -> dict[str, Any]:
        image, mask, spacing = self.read(source)
        stored = np.zeros(
            (self.resize.size, self.resize.size, self.label_spec.mask_channels), np.uint8
        )
        if mask is not None:
            planes = np.moveaxis(np.atleast_3d(mask), -1, 0)
            stored[...] = np.stack([self.resize.mask(plane) for plane in planes], axis=-1)
        return {
            "image": self.resize.image(image),
            "mask": stored,
            "has_mask": mask is not None,
            "spacing": self.resize.spacing(spacing, *image.shape[:2]),
        }

    def pixel_features(self) -> dict[str, Any]:
        square = lambda channels: tfds.features.Tensor(
            shape=(self.resize.size, self.resize.size, channels),
            dtype=np.uint8,
            encoding=tfds.features.Encoding.BYTES,
        )
        return {
            "image": square(self.channels),
            "mask": square(self.label_spec.mask_channels),
            "spacing": tfds.features.Tensor(shape=(2,), dtype=np.float32),
        }


def lung_masks(files: dict[str, Path], left: str, right: str) -> tuple[Path, ...]:
    """One image's masks: `files` maps a folder's name ("masks", `left`, `right`) to its file."""
    if "masks" in files:
        return (files["masks"],)
    if len(files) == 1:
        ((side, path),) = files.items()
        other = right if side == left else left
        raise DataError(f"{path} has no counterpart in {other!r}; fetch the masks of both lungs")
    return tuple(files[side] for side in sorted(files))
