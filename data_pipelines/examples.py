"""What a prepared data set looks like to the rest of the program."""

import csv

import numpy as np

from data_pipelines.builder import SPLIT, ImageSetBuilder

_CHUNK = 256  # records read at once


class Examples:
    """A prepared set: who its N examples are, and their pixels in any order.

    Attributes:
        name, class_names, size: of the set; `size` is S below.
        ids, groups, splits: str [N]; the split is "train", "val", "test" or "" for none.
        labels: int64 [N], an index into class_names, -1 = none.
        has_mask: bool [N].
        spacing: float32 [N, 2], millimetres per pixel (row, column) at size S, 0 = unknown.
    """

    def __init__(self, builder: ImageSetBuilder, *, cache_bytes: int):
        """Opens a set that `builder.prepare` has prepared.

        It is held in memory if its images and masks take up to `cache_bytes`, and read from its
        files as needed if they take more.
        """
        with builder.index_path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self.name = builder.name
        self.class_names = builder.class_names
        self.size = builder.size
        self.ids = np.array([row["id"] for row in rows])
        self.groups = np.array([row["group"] for row in rows])
        self.splits = np.array([row["split"] for row in rows])
        self.labels = np.array([int(row["label"]) for row in rows], np.int64)
        self.has_mask = np.array([row["has_mask"] == "1" for row in rows])
        self.spacing = np.array([(row["row_mm"], row["column_mm"]) for row in rows], np.float32)
        self._records = builder.as_data_source(SPLIT)
        self._cache: dict[str, np.ndarray] | None = None
        if len(self) * self.size**2 * 2 <= cache_bytes:
            self._cache = self._read_all()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def in_memory(self) -> bool:
        return self._cache is not None

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The pixels of some examples; may be called from several threads at once.

        Args:
            indices: int [n] in 0..N-1, in any order, repeats allowed.

        Returns:
            image: uint8 [n, S, S, 1] in 0..255; mask: uint8 [n, S, S, 1] in {0, 1}, zeros where
            there is no mask.
        """
        if self._cache is not None:
            return {key: values[indices] for key, values in self._cache.items()}
        return self._read(indices)

    def _read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        records = self._records.__getitems__(np.asarray(indices).tolist())
        shape = (len(records), self.size, self.size, 1)
        pixels = {key: np.empty(shape, np.uint8) for key in ("image", "mask")}
        for key, values in pixels.items():
            for row, record in enumerate(records):
                values[row] = record[key]
        return pixels

    def _read_all(self) -> dict[str, np.ndarray]:
        shape = (len(self), self.size, self.size, 1)
        pixels = {key: np.empty(shape, np.uint8) for key in ("image", "mask")}
        for start in range(0, len(self), _CHUNK):
            chunk = np.arange(start, min(start + _CHUNK, len(self)))
            for key, values in self._read(chunk).items():
                pixels[key][chunk] = values
        return pixels
