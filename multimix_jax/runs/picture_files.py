"""Pictures of test images as arrays in the folder of a run, written and read again."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from multimix_jax import atomic
from multimix_jax.names import Checkpoint, Head
from multimix_jax.runs import workdir


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image of a test set, or a slice of a volume, and what is known of it."""

    id: str  # name of the image or the volume
    slice: int  # its place along the volume's third axis; -1 for an image
    image: np.ndarray  # uint8 [H,W,C]
    truth: np.ndarray | None = None  # bool [H,W,C']
    masks: Mapping[Head, np.ndarray] = dataclasses.field(default_factory=dict)  # predicted
    distance: np.ndarray | None = None  # predicted signed distance map [H,W,C'] in [-1,1]
    saliency: np.ndarray | None = None  # of the classifier [H,W,1]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures of each test set, from the worst image to the best, under one checkpoint."""

    checkpoint: Checkpoint
    sets: Mapping[str, Sequence[Picture]]


def write_examples(
    path: pathlib.Path,
    examples: Mapping[tuple[str, str], Sequence[Picture]],
    histograms: Mapping[str, np.ndarray],
) -> None:
    """Writes `examples.npz` into the folder of a run.

    It holds the examples by (checkpoint, data set) as SET/CHECKPOINT/id and so on, see `to_arrays`,
    and the histograms, int64 [256] by data set, as SET/histogram.
    """
    arrays = {f"{data_set}/histogram": counts for data_set, counts in histograms.items()}
    for (which, data_set), pictures in examples.items():
        arrays |= to_arrays(f"{data_set}/{which}", pictures)
    atomic.write_arrays(path / workdir.EXAMPLES, arrays)


def write_gallery(path: pathlib.Path, gallery: Gallery) -> None:
    """Writes `gallery.npz` into the folder of a run: `checkpoint`, SET/id, SET/slice, ..."""
    arrays = {"checkpoint": np.array(str(gallery.checkpoint))}
    for data_set, pictures in gallery.sets.items():
        arrays |= to_arrays(data_set, pictures)
    atomic.write_arrays(path / workdir.GALLERY, arrays)


def to_arrays(prefix: str, pictures: Sequence[Picture]) -> dict[str, np.ndarray]:
    """PREFIX/id, PREFIX/slice int32 [n], PREFIX/known bool [n], whether there is a truth,
    PREFIX/image uint8 [n,H,W,C], and what else there is of truth, mask, mask_sdf, mask_average,
    distance and saliency; small pictures, and unknown truths, are filled up."""
    known = [picture.truth is not None for picture in pictures]
    arrays: dict[str, np.ndarray] = {
        f"{prefix}/id": np.array([picture.id for picture in pictures]),
        f"{prefix}/slice": np.array([picture.slice for picture in pictures], np.int32),
        f"{prefix}/known": np.array(known),
    }
    named = [{**picture.masks, **vars(picture)} for picture in pictures]
    if any(known):
        unknown = np.zeros((1, 1, named[known.index(True)]["truth"].shape[-1]), bool)
        named = [
            values | {"truth": unknown} if values["truth"] is None else values for values in named
        ]
    for kind in ("image", "truth", *Head, "saliency"):
        there = [values[kind] for values in named if values.get(kind) is not None]
        if there:
            arrays[f"{prefix}/{kind}"] = stack(there)
    return arrays


def from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, list[Picture]]:
    """The inverse of `to_arrays`: pictures by prefix."""
    sets: dict[str, dict[str, np.ndarray]] = {}
    for key, values in arrays.items():
        prefix, _, kind = key.rpartition("/")
        sets.setdefault(prefix, {})[kind] = values
    masks = [head for head in Head if head.is_mask]
    return {
        prefix: [
            Picture(
                id=kinds["id"][n].item(),
                slice=int(kinds["slice"][n]),
                image=kinds["image"][n],
                masks={head: kinds[head][n] for head in masks if head in kinds},
                truth=kinds["truth"][n] if "truth" in kinds and kinds["known"][n] else None,
                **{k: kinds[k][n] for k in ("distance", "saliency") if k in kinds},
            )
            for n in range(len(kinds["id"]))
        ]
        for prefix, kinds in sets.items()
        if "id" in kinds or "image" in kinds
    }


def stack(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """[n,H,W,C] of pictures [h,w,C], each filled up with zeros to the largest sides."""
    sides = np.max([picture.shape for picture in pictures], axis=0)
    grow = lambda x: np.pad(x, [(0, side - own) for side, own in zip(sides, x.shape, strict=True)])
    return np.stack([grow(picture) for picture in pictures])


def shrink(pictures: np.ndarray, side: int) -> np.ndarray:
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


def shrink_pictures(pictures: Sequence[Picture], side: int) -> list[Picture]:
    """Pictures of one size, of at most `side` pixels a side."""
    arrays = to_arrays("", pictures)
    shrunk = {key: v if v.ndim == 1 else shrink(v, side) for key, v in arrays.items()}
    return from_arrays(shrunk)[""]
