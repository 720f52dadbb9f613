"""What a prepared data set looks like to the rest of the program."""

import csv
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import numpy as np

from data_pipelines.findings import Finding
from data_pipelines.prepare import SPLIT, SetBuilder
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Task

_CHUNK = 2**28  # bytes read at once


class Pixels:
    """The images and masks of a prepared set: kept in memory if they take up to `cache_bytes`, else
    read from its files as needed.
    """

    def __init__(self, builder: SetBuilder, sides: list[int], cache_bytes: int):
        self._records = builder.as_data_source(SPLIT)
        self._empty = {
            "image": np.zeros((*sides, builder.channels), builder.pixel_type),
            "mask": np.zeros((*sides, builder.label_spec.mask_channels), np.uint8),
        }
        self._bytes = sum(array.nbytes for array in self._empty.values())  # of one example
        self.in_memory = False
        if len(self._records) * self._bytes <= cache_bytes:
            self._cache = self._read(np.arange(len(self._records)))
            self.in_memory = True

    def fetch(self, places: np.ndarray) -> dict[str, np.ndarray]:
        """Those at some places in the set; see `Examples.fetch`."""
        if self.in_memory:
            return {key: values[places] for key, values in self._cache.items()}
        return self._read(places)

    def _read(self, places: np.ndarray) -> dict[str, np.ndarray]:
        pixels = {
            key: np.zeros((len(places), *one.shape), one.dtype) for key, one in self._empty.items()
        }
        step = max(1, _CHUNK // self._bytes)
        for start in range(0, len(places), step):
            records = self._records.__getitems__(places[start : start + step].tolist())
            for row, record in enumerate(records, start):
                for key, values in pixels.items():
                    values[row][_within(record[key].shape)] = record[key]
        return pixels


@dataclasses.dataclass(frozen=True)
class Examples:
    """Examples of a prepared set: who these N are, and their pixels in any order.

    Attributes:
        label_spec: what their labels mean.
        groups, splits: str [N], patients and official splits ('' for none).
        labels: int64 [N], an index into the class names; of a multi-label set [N, K] of 0 and 1;
            -1 = unknown, which some classes of an image may be and others not.
        has_mask: bool [N].
        extents: int32 [N, dims], sides of each example; those of images are all the same.
        spacing: float32 [N, dims], millimetres per pixel (row, column, ...), 0 = unknown.
        source_shapes: int32 [N, dims], sides of each image before it was fitted.
        affines: float64 [N, 4, 4] from voxels to millimetres, zeros where unknown; None of images.
        pixels: of the whole set, of which these lie at `places`, int64 [N].
        findings: of the audit, about the whole set; None where they are not known.
    """

    name: str
    label_spec: LabelSpec
    ids: list[str]
    groups: np.ndarray
    splits: np.ndarray
    labels: np.ndarray
    has_mask: np.ndarray
    extents: np.ndarray
    spacing: np.ndarray
    source_shapes: np.ndarray
    affines: np.ndarray | None
    pixels: Pixels
    places: np.ndarray
    findings: Sequence[Finding] | None = None

    @classmethod
    def open(cls, builder: SetBuilder, *, cache_bytes: int) -> Self:
        """All of a set that `builder.prepare` has prepared; see `Pixels`."""
        with builder.index_path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        numbers = lambda key, dtype: np.array([row[key].split() for row in rows]).astype(dtype)
        labels = np.array([int(row["label"]) for row in rows], np.int64)
        if builder.label_spec.multi_label:
            unknown = np.array([int(row["unknown"]) for row in rows], np.int64)
            places = np.arange(len(builder.label_spec.class_names))
            bits = lambda numbers: numbers[:, None] >> places & 1
            labels = np.where((labels[:, None] < 0) | (bits(unknown) == 1), -1, bits(labels))
        extents = numbers("shape", np.int32)
        of_volumes = extents.shape[1] == 3
        return cls(
            name=builder.name,
            label_spec=builder.label_spec,
            ids=[row["id"] for row in rows],
            groups=np.array([row["group"] for row in rows]),
            splits=np.array([row["split"] for row in rows]),
            labels=labels,
            has_mask=np.array([row["has_mask"] == "1" for row in rows]),
            extents=extents,
            spacing=numbers("spacing_mm", np.float32),
            source_shapes=numbers("source_shape", np.int32),
            affines=numbers("affine", np.float64).reshape(-1, 4, 4) if of_volumes else None,
            pixels=Pixels(builder, extents.max(axis=0).tolist(), cache_bytes),
            places=np.arange(len(rows)),
            findings=builder.findings(),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def known(self, task: Task) -> np.ndarray:
        """bool [N], whether the mask, or the label (of any class, if independent), is known."""
        if task == Task.SEG:
            return self.has_mask
        return np.atleast_2d(self.labels.T).max(axis=0) >= 0

    def take(self, indices: np.ndarray) -> Self:
        """Some of the examples, in that order."""
        columns = {
            name: values[indices]
            for name, values in vars(self).items()
            if isinstance(values, np.ndarray)
        }
        return dataclasses.replace(self, ids=[self.ids[index] for index in indices], **columns)

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The pixels of n examples, repeats allowed; may be called from several threads at once.

        `image` [n, *sides, C]: of images uint8 in 0..255, of volumes float16; `mask` [n, *sides,
        C']: uint8 in {0, 1}, zeros where there is no mask. The sides hold every example of the set;
        what lies beyond an example's extent is 0.
        """
        return self.pixels.fetch(self.places[indices])

    def images(self, indices: np.ndarray) -> np.ndarray | list[np.ndarray]:
        """Some images [n, *sides, C]; of volumes a list, each of its own size."""
        images = self.fetch(indices)["image"]
        if self.affines is None:
            return images
        return [x[_within(extent)] for x, extent in zip(images, self.extents[indices])]

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """What a batch may hold of n examples: `fetch`, `label` int32, `has_mask`, `extent`."""
        return {
            **self.fetch(indices),
            "label": self.labels[indices].astype(np.int32),
            "has_mask": self.has_mask[indices],
            "extent": self.extents[indices],
        }

    def batches(self, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """All examples once, in order, to evaluate on; see `streams.eval_batches`."""
        from data_pipelines import streams  # here, since TensorFlow takes seconds to import

        return streams.eval_batches(self, batch_size)


def _within(sides: Iterable[int]) -> tuple[slice, ...]:
    """Where an example of these sides lies in an array that holds every example."""
    return tuple(map(slice, sides))
