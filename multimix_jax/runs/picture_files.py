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
    """An image of a test set, or a slice of a volume, and what is known of it.

    Attributes:
      id: name of the image or the volume.
      slice: its place along the volume's third axis; -1 for an image.
      image: uint8 [H,W,C].
      truth: bool [H,W,C'], or None where there is none.
      masks: predicted masks, bool [H,W,C'].
      distance: predicted signed distance map [H,W,C'] in [-1,1], or None.
      saliency: of the classifier [H,W,1], or None.
    """

    id: str
    slice: int
    image: np.ndarray
    truth: np.ndarray | None = None
    masks: Mapping[Head, np.ndarray] = dataclasses.field(default_factory=dict)
    distance: np.ndarray | None = None
    saliency: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures of each test set, from the worst image to the best.

    Attributes:
      checkpoint: of the weights that predicted.
      sets: pictures by data set; images and saliency are uint8 [H,W,1].
    """

    checkpoint: Checkpoint
    sets: Mapping[str, Sequence[Picture]]


def write_examples(
    path: pathlib.Path,
    examples: Mapping[tuple[str, str], Sequence[Picture]],
    histograms: Mapping[str, np.ndarray],
) -> None:
    """Writes `examples.npz` into the folder of a run.

    SET/id, SET/slice, SET/image and SET/truth are the same for every checkpoint; SET/best/mask,
    SET/last/distance and so on are what was predicted.

    Args:
      path: the folder.
      examples: by (checkpoint, data set); all have a truth.
      histograms: by data set, see `histogram`.
    """
    arrays = {f"{data_set}/histogram": counts for data_set, counts in histograms.items()}
    for (which, data_set), pictures in examples.items():
        for kind, values in _stacked(pictures).items():
            predicted = kind in frozenset(Head)
            arrays[f"{data_set}/{which}/{kind}" if predicted else f"{data_set}/{kind}"] = values
    atomic.write_arrays(path / workdir.EXAMPLES, arrays)


def write_gallery(path: pathlib.Path, gallery: Gallery) -> None:
    """Writes `gallery.npz` into the folder of a run.

    `checkpoint`, and of each data set SET/id, SET/slice, SET/image, and where there are any
    SET/truth, SET/mask and other masks, SET/saliency.
    """
    arrays = {"checkpoint": np.array(str(gallery.checkpoint))}
    for data_set, pictures in gallery.sets.items():
        arrays |= {f"{data_set}/{kind}": values for kind, values in _stacked(pictures).items()}
    atomic.write_arrays(path / workdir.GALLERY, arrays)


def read_examples(arrays: Mapping[str, np.ndarray]) -> dict[tuple[str, str], list[Picture]]:
    """The pictures of `examples.npz`, by (checkpoint, data set).

    Raises:
      IndexError, KeyError, TypeError, ValueError: the arrays do not belong together.
    """
    examples = {}
    for data_set, kinds in by_data_set(arrays).items():
        common = {kind: values for kind, values in kinds.items() if "/" not in kind}
        for which in Checkpoint:
            predicted = {
                kind.removeprefix(f"{which}/"): values
                for kind, values in kinds.items()
                if kind.startswith(f"{which}/")
            }
            if predicted:
                examples[str(which), data_set] = _unstacked(common | predicted)
    return examples


def read_gallery(arrays: Mapping[str, np.ndarray]) -> Gallery:
    """The pictures of `gallery.npz`.

    Raises:
      IndexError, KeyError, TypeError, ValueError: the arrays do not belong together.
    """
    sets = by_data_set(arrays)
    checkpoint = Checkpoint(str(sets.pop("checkpoint")[""]))
    return Gallery(checkpoint, {name: _unstacked(kinds) for name, kinds in sets.items()})


def shrink_pictures(pictures: Sequence[Picture], side: int) -> list[Picture]:
    """Pictures of one size, of at most `side` pixels a side."""
    return _unstacked(
        {
            kind: values if values.ndim == 1 else shrink(values, side)
            for kind, values in _stacked(pictures).items()
        }
    )


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


def _stacked(pictures: Sequence[Picture]) -> dict[str, np.ndarray]:
    """The arrays of pictures by kind, n entries each; the inverse of `_unstacked`."""
    kinds: dict[str, list[np.ndarray]] = {}
    for picture in pictures:
        known: dict[str, np.ndarray | None] = {"image": picture.image, "truth": picture.truth}
        known |= {str(head): mask for head, mask in picture.masks.items()}
        known |= {str(Head.DISTANCE): picture.distance, "saliency": picture.saliency}
        for kind, values in known.items():
            if values is not None:
                kinds.setdefault(kind, []).append(values)
    return {
        "id": np.array([picture.id for picture in pictures]),
        "slice": np.array([picture.slice for picture in pictures], np.int32),
        **{kind: stack(values) for kind, values in kinds.items()},
    }


def _unstacked(kinds: Mapping[str, np.ndarray]) -> list[Picture]:
    return [
        Picture(
            id=kinds["id"][n].item(),
            slice=int(kinds["slice"][n]),
            image=kinds["image"][n],
            truth=kinds["truth"][n] if "truth" in kinds else None,
            masks={head: kinds[head][n] for head in Head if head.is_mask and head in kinds},
            distance=kinds[Head.DISTANCE][n] if Head.DISTANCE in kinds else None,
            saliency=kinds["saliency"][n] if "saliency" in kinds else None,
        )
        for n in range(len(kinds["id"]))
    ]


def by_data_set(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Arrays called SET/KIND, by set and kind."""
    sets: dict[str, dict[str, np.ndarray]] = {}
    for key, values in arrays.items():
        data_set, _, kind = key.partition("/")
        sets.setdefault(data_set, {})[kind] = values
    return sets
