"""Data sets of volumes: each is stored at its own size."""

from typing import Any

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.findings import WARNING, note
from data_pipelines.prepare import SetBuilder
from data_pipelines.source import Source

_LEAST_SIDE = 8  # voxels; SSIM needs 7

# image, mask, affine: see `VolumeSetBuilder.read`
DecodedVolume = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]


class VolumeSetBuilder(SetBuilder):
    """Stores volumes as float16 [X, Y, Z, 1] with their masks and where they lie in space. A
    subclass says where its files lie (`find`) and how one example is read (`read`).
    """

    variant = "volumes"
    pixel_type = np.float16
    sides = (None, None, None)
    example_bytes = 2**24

    def read(self, source: Source) -> DecodedVolume:
        """Decodes one example: image [X, Y, Z], about zero mean and unit variance; mask of the same
        shape, nonzero inside, or None; affine [4, 4] from voxels to millimetres, or None where
        unknown.
        """
        raise NotImplementedError

    def example(self, source: Source) -> dict[str, Any]:
        image, mask, affine = self.read(source)
        _check(source, image, mask)
        affine = np.zeros((4, 4)) if affine is None else affine
        stored = np.clip(image, *(np.finfo(np.float16).min, np.finfo(np.float16).max))
        inside = np.zeros(image.shape, bool) if mask is None else _inside(source, mask)
        return {
            "image": stored.astype(np.float16)[..., None],
            "mask": inside.astype(np.uint8)[..., None],
            "has_mask": mask is not None,
            "spacing": np.linalg.norm(affine[:3, :3], axis=0).astype(np.float32),
            "source_shape": np.array(image.shape, np.int32),
            "affine": affine,
        }


def _check(source: Source, image: np.ndarray, mask: np.ndarray | None) -> None:
    sides = lambda array: "x".join(map(str, array.shape))
    if image.ndim != 3 or min(image.shape) < _LEAST_SIDE:
        raise DataError(
            f"{source.image} is {sides(image)}, but a volume has three axes of at least "
            f"{_LEAST_SIDE} voxels; export it as one volume"
        )
    if not np.isfinite(image).all():
        raise DataError(f"{source.image} holds values that are not finite; export the volume again")
    if mask is not None and mask.shape != image.shape:
        label = source.masks[0] if source.masks else "its label"
        raise DataError(
            f"{label} is {sides(mask)} voxels, but {source.image} is {sides(image)}; export the "
            "label again on the grid of its volume"
        )


def _inside(source: Source, mask: np.ndarray) -> np.ndarray:
    """bool, where a label is not 0; DataError where it has values that no class is called by."""
    label = source.masks[0] if source.masks else f"the label of {source.image}"
    inside = mask != 0
    marked = mask[inside]
    with np.errstate(invalid="ignore"):  # of what is not finite
        whole = mask.dtype.kind in "biu" or bool((np.abs(marked - np.rint(marked)) < 1e-3).all())
    if not whole:
        raise DataError(
            f"{label} holds values that are not whole numbers, as of a label that was resampled; "
            "export it with 0 outside and 1 inside"
        )
    if marked.size and float(marked.max()) - float(marked.min()) > 0.5:
        values = ", ".join(f"{value:g}" for value in np.unique(np.rint(marked))[:8])
        detail = f"{label} holds {values}, all of which are taken as inside"
        note("several values in a label", WARNING, detail)
    return inside


def standardize(values: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over the volume, float32; a volume of one value becomes 0."""
    with np.errstate(all="ignore"):  # values that are not finite are refused later
        values = values.astype(np.float32)
        deviation = values.std() if values.size else 0
        if not np.isfinite(deviation):
            return values
        return (values - values.mean()) / deviation if deviation > 0 else np.zeros_like(values)
