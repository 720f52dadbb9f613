"""Data sets of images: each is resized once to the working size."""

import collections
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.files import images, read_image
from data_pipelines.prepare import SetBuilder
from data_pipelines.resize import ResizeSpec
from data_pipelines.source import Source

# image, mask, millimetres from one row and from one column to the next: see `ImageSetBuilder.read`
DecodedImage = tuple[np.ndarray, np.ndarray | None, tuple[float, float]]

Sides = tuple[str, str]  # folders of the masks of either lung


class ImageSetBuilder(SetBuilder):
    """Stores images as uint8 [size, size, channels] with their masks. A subclass says where its
    files lie (`find`) and, where they are unusual, how one example is read (`read`).
    """

    pixel_type = np.uint8

    def __init__(self, *, size: int, fit: str = "squash", channels: int = 1, **options: Any):
        """Images are prepared as `ResizeSpec` has it; the options are those of `SetBuilder`."""
        self.resize = ResizeSpec(size, fit, channels)
        self.variant = self.resize.variant
        self.sides = (size, size)
        self.channels = channels
        self.example_bytes = size**2 * (channels + self.label_spec.mask_channels)
        super().__init__(**options)

    def read(self, source: Source) -> DecodedImage:
        """Decodes one example: image float32 [H, W], or [H, W, 3] of 3 channels, in 0..255; mask
        bool [H, W] or [H, W, C], or None; millimetres from one row and from one column of the
        source to the next, (0, 0) where unknown.
        """
        assert source.image is not None
        image, spacing = read_image(source.image, self.channels)
        return image, self.read_masks(source, image.shape[:2]), spacing

    def channel_of(self, mask: Path) -> int:
        """Which channel of the mask a file belongs to."""
        return 0

    def read_masks(self, source: Source, shape: tuple[int, ...]) -> np.ndarray | None:
        """The union of an example's masks, by channel: bool [*shape, C]; None where it has none."""
        if not source.masks:
            return None
        union = np.zeros((*shape, self.label_spec.mask_channels), bool)
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
        size, channels = self.resize.size, self.label_spec.mask_channels
        stored = np.zeros((size, size, channels), np.uint8)
        if mask is not None:
            planes = np.moveaxis(np.atleast_3d(mask), -1, 0)
            stored[...] = np.stack([self.resize.mask(plane) for plane in planes], axis=-1)
        return {
            "image": self.resize.image(image),
            "mask": stored,
            "has_mask": mask is not None,
            "spacing": self.resize.spacing(spacing, *image.shape[:2]),
        }


def find_lungs(
    builder: ImageSetBuilder, files: Iterable[Path], name: str, due: tuple[str, str], sides: Sides
) -> list[tuple[str, Path, tuple[Path, ...]]]:
    """Films whose names match a pattern, with the masks of their lungs: one of both in masks/, or
    one of each in the folders of the two `sides`. `due` names films and folders, for errors.
    """
    films: dict[str, Path] = {}
    masks: dict[str, dict[str, Path]] = collections.defaultdict(dict)
    for path in files:
        folder = path.parent
        if not re.fullmatch(name, path.stem):
            continue
        if folder.name in ("masks", *sides):
            masks[path.stem].setdefault(folder.name, path)
        elif path.suffix.lower() in (".img", ".png") and folder.parent.name != "masks":
            films.setdefault(path.stem, path)
    if not films:
        raise builder.missing(f"no images {due[0]}")
    if not masks:
        raise builder.missing(f"no masks in masks/ or in {due[1]}")
    return [(stem, path, lung_masks(masks[stem], sides)) for stem, path in films.items()]


def lung_masks(files: dict[str, Path], sides: Sides) -> tuple[Path, ...]:
    """One image's masks: `files` maps a folder's name ("masks", or one of `sides`) to its file."""
    if "masks" in files:
        return (files["masks"],)
    if len(files) == 1:
        ((side, path),) = files.items()
        (other,) = set(sides) - {side}
        raise DataError(f"{path} has no counterpart in {other!r}; fetch the masks of both lungs")
    return tuple(files[side] for side in sorted(files))
