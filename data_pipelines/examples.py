"""What a prepared data set looks like to the rest of the program."""

import math

import numpy as np

from data_pipelines import index
from data_pipelines.prepare import SPLIT, SetBuilder

_CHUNK = 2**28  # bytes read at once


class Examples:
    """A prepared set: who its N examples are, and their pixels in any order.

    Attributes:
        name: of the set.
        label_spec: what its labels mean.
        ids, groups, splits: str [N]; the split is "train", "val", "test" or "" for none.
        labels: int64 [N], an index into the class names; of a multi-label set [N, K] of 0 and 1;
            -1 = unknown.
        has_label: bool [N].
        has_mask: bool [N].
        extents: int32 [N, dims], sides of each example; those of images are all the same.
        sides: dims numbers that hold every example.
        dtypes, shapes: of `image` and `mask` of one example, as `fetch` gives them.
        spacing: float32 [N, dims], millimetres per pixel (row, column, ...), 0 = unknown.
        affines: float64 [N, 4, 4] from voxels to millimetres, zeros where unknown; None of images.
    """

    def __init__(self, builder: SetBuilder, *, cache_bytes: int):
        """Opens a set that `builder.prepare` has prepared.

        It is kept in memory if its images and masks take up to `cache_bytes`, and read from its
        files as needed if they take more.
        """
        rows = index.read(builder.index_path)
        self.name = builder.name
        self.label_spec = builder.label_spec
        self.ids = np.array([row["id"] for row in rows])
        self.groups = np.array([row["group"] for row in rows])
        self.splits = np.array([row["split"] for row in rows])
        self.labels = np.array([int(row["label"]) for row in rows], np.int64)
        self.has_label = self.labels >= 0
        if self.label_spec.multi_label:
            bits = self.labels[:, None] >> np.arange(len(self.label_spec.class_names)) & 1
            self.labels = np.where(self.has_label[:, None], bits, -1)
        self.has_mask = np.array([row["has_mask"] == "1" for row in rows])
        self.extents = np.array([row["shape"].split() for row in rows]).astype(np.int32)
        self.sides: tuple[int, ...] = tuple(self.extents.max(axis=0).tolist())
        self.spacing = np.array([row["spacing_mm"].split() for row in rows]).astype(np.float32)
        self.affines: np.ndarray | None = None
        if self.of_volumes:
            numbers = np.array([row["affine"].split() for row in rows])
            self.affines = numbers.astype(np.float64).reshape(-1, 4, 4)
        self.dtypes = {"image": np.dtype(builder.pixel_type), "mask": np.dtype(np.uint8)}
        self.shapes = {
            "image": (*self.sides, builder.channels),
            "mask": (*self.sides, self.label_spec.mask_channels),
        }
        self._records = builder.as_data_source(SPLIT)
        self._cache: dict[str, np.ndarray] | None = None
        if len(self) * self._bytes <= cache_bytes:
            self._cache = self._read_all()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def in_memory(self) -> bool:
        return self._cache is not None

    @property
    def of_volumes(self) -> bool:
        return len(self.sides) == 3

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The pixels of some examples; may be called from several threads at once.

        Args:
            indices: int [n] in 0..N-1, in any order, repeats allowed.

        Returns:
            image [n, *sides, C]: of images uint8 in 0..255, of volumes float16; mask [n, *sides,
            C']: uint8 in {0, 1}, zeros where there is no mask. What lies beyond an example's
            extent is 0.
        """
        if self._cache is not None:
            return {key: values[indices] for key, values in self._cache.items()}
        return self._read(indices)

    @property
    def _bytes(self) -> int:
        """Of one example in memory."""
        return sum(
            dtype.itemsize * math.prod(self.shapes[key]) for key, dtype in self.dtypes.items()
        )

    def _empty(self, count: int) -> dict[str, np.ndarray]:
        return {
            key: np.zeros((count, *self.shapes[key]), dtype) for key, dtype in self.dtypes.items()
        }

    def _read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        records = self._records.__getitems__(np.asarray(indices).tolist())
        pixels = self._empty(len(records))
        for key, values in pixels.items():
            for row, record in enumerate(records):
                inside = tuple(map(slice, record[key].shape))
                values[row][inside] = record[key]
        return pixels

    def _read_all(self) -> dict[str, np.ndarray]:
        pixels = self._empty(len(self))
        count = max(1, _CHUNK // self._bytes)
        for start in range(0, len(self), count):
            chunk = np.arange(start, min(start + count, len(self)))
            for key, values in self._read(chunk).items():
                pixels[key][chunk] = values
        return pixels
