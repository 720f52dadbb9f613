"""Data sets of images: each is resized once to the working size."""

import collections
import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.files import masks, read_image
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
        super().__init__(**options)

    @functools.cached_property
    def example_bytes(self) -> int:  # type: ignore[override]
        return self.resize.size**2 * (self.channels + self.label_spec.mask_channels)

    def read(self, source: Source) -> DecodedImage:
        """Decodes one example: image float32 [H, W], or [H, W, 3] of 3 channels, in 0..255; mask
        [H, W] or [H, W, C], bool, or uint8 with VOID, or None; millimetres from one row and from
        one column of the source to the next, (0, 0) where unknown.
        """
        assert source.image is not None
        image, spacing = read_image(source.image, self.channels)
        return image, self.read_masks(source, image.shape[:2]), spacing

    def planes(self, path: Path) -> np.ndarray:
        """What a mask file marks: bool [H, W, C], or uint8 with VOID in all channels of a pixel."""
        return masks.read_soft(path)[..., None]

    def read_masks(self, source: Source, shape: tuple[int, ...]) -> np.ndarray | None:
        """The union of an example's masks, by channel: [*shape, C], see `planes`; where it has
        none, zeros if it is said to show nothing, else None.
        """
        if not source.masks and not source.empty:
            return None
        union = np.zeros((*shape, self.label_spec.mask_channels), bool)
        for path in source.masks:
            planes = self.planes(path)
            if planes.shape[:2] != shape:
                turned = " (as EXIF in either says to turn them)" * (planes.shape[1::-1] == shape)
                raise DataError(
                    f"{path} is {planes.shape[0]}x{planes.shape[1]} (rows x columns), but the mask "
                    f"of {source.image} must be {shape[0]}x{shape[1]}{turned}; export it again at "
                    "that size"
                )
            union = np.maximum(union, planes)
        return union

    def example(self, source: Source) -> dict[str, Any]:
        image, mask, spacing = self.read(source)
        nothing = np.zeros(
            (self.resize.size, self.resize.size, self.label_spec.mask_channels), np.uint8
        )
        return {
            "image": self.resize.image(image),
            "mask": nothing if mask is None else self.resize.masks(np.atleast_3d(mask)),
            "has_mask": mask is not None,
            "spacing": self.resize.spacing(spacing, *image.shape[:2]),
            "source_shape": np.array(image.shape[:2], np.int32),
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
