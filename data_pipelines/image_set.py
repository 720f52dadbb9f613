"""Data sets of images: each is resized once to the working size."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import images
from data_pipelines.builder import SetBuilder, Source
from data_pipelines.errors import DataError


class ImageSetBuilder(SetBuilder):
    """Stores images as uint8 [size, size, 1] with their masks.

    A data set is a subclass that says where its files lie (`find`) and, where its files are
    unusual, how one example is read (`read`).
    """

    pixel_type = np.uint8

    def __init__(
        self,
        *,
        source_dir: str | Path,
        size: int,
        prepared_dir: str = "",
        name: str = "",
        leave_out: Collection[str] = (),
    ):
        """Args:
        source_dir: the folder with the official or the converted files.
        size: side of the prepared images, a multiple of 16.
        prepared_dir, name, leave_out: as for `SetBuilder`.
        """
        if size <= 0 or size % 16:
            raise DataError(
                f"size={size}, but images are prepared at a positive multiple of 16; "
                "set --config.size to 64, 128, 256, ..."
            )
        self.size = size
        self.example_bytes = 2 * size**2
        super().__init__(
            source_dir=source_dir,
            variant=f"size{size}",
            prepared_dir=prepared_dir,
            name=name,
            leave_out=leave_out,
        )

    def read(self, source: Source) -> tuple[np.ndarray, np.ndarray | None, tuple[float, float]]:
        """Decodes one example.

        Returns:
            image float32 [H, W] in 0..255; mask bool [H, W] or None; millimetres from one row and
            from one column of the source to the next, (0, 0) where unknown.
        """
        assert source.image is not None
        image = images.read_gray(source.image)
        return image, self.read_masks(source, image.shape), (0.0, 0.0)

    def read_masks(self, source: Source, shape: tuple[int, ...]) -> np.ndarray | None:
        """The union of the example's masks, bool of `shape`; None where it has no mask."""
        if not source.masks:
            return None
        union = np.zeros(shape, bool)
        for path in source.masks:
            mask = images.read_mask(path)
            if mask.shape != shape:
                raise DataError(
                    f"{path} is {mask.shape[0]}x{mask.shape[1]} (rows x columns), but the mask of "
                    f"{source.image} must be {shape[0]}x{shape[1]}; export it again at that size"
                )
            union |= mask
        if not union.any():
            raise DataError(
                f"{source.masks[0]} marks no pixel (no value above half of the full scale); "
                "draw the mask again, or remove the file to use the image without a mask"
            )
        return union

    def example(self, source: Source) -> dict[str, Any]:
        image, mask, spacing = self.read(source)
        height, width = image.shape
        empty = np.zeros((self.size, self.size), np.uint8)
        resized = empty if mask is None else images.resize_mask(mask, self.size)
        return {
            "image": images.resize_image(image, self.size)[:, :, None],
            "mask": resized[:, :, None],
            "has_mask": mask is not None,
            "spacing": np.array(
                [spacing[0] * height / self.size, spacing[1] * width / self.size], np.float32
            ),
        }

    def pixel_features(self) -> dict[str, Any]:
        square = tfds.features.Tensor(
            shape=(self.size, self.size, 1),
            dtype=np.uint8,
            encoding=tfds.features.Encoding.BYTES,
        )
        spacing = tfds.features.Tensor(shape=(2,), dtype=np.float32)
        return {"image": square, "mask": square, "spacing": spacing}


def lung_masks(found: dict[str, Path], left: str, right: str) -> tuple[Path, ...]:
    """One image's masks: `found` maps a folder's name ("masks", `left`, `right`) to its file."""
    if "masks" in found:
        return (found["masks"],)
    if len(found) == 1:
        ((side, path),) = found.items()
        other = right if side == left else left
        raise DataError(f"{path} has no counterpart in {other!r}; fetch the masks of both lungs")
    return tuple(found[side] for side in sorted(found))
