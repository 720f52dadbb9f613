"""What is stored of an example: its record, and its row in the table of its set."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

COLUMNS = (
    *("id", "group", "split", "label", "unknown", "has_mask"),
    *("shape", "spacing_mm", "source_shape", "affine", "source"),
)


def features(
    sides: Sequence[int | None], pixel_type: Any, channels: int, mask_channels: int
) -> dict[str, Any]:
    """What TFDS is to store of an example; of None as a side the length differs."""
    pixels = lambda dtype, channels: tfds.features.Tensor(
        shape=(*sides, channels), dtype=dtype, encoding=tfds.features.Encoding.BYTES
    )
    stored = {
        "id": tfds.features.Text(),
        "group": tfds.features.Text(),
        "split": tfds.features.Text(),
        "has_mask": np.bool_,
        "label": np.int64,
        "unknown": np.int64,
        "image": pixels(pixel_type, channels),
        "mask": pixels(np.uint8, mask_channels),
        "spacing": tfds.features.Tensor(shape=(len(sides),), dtype=np.float32),
        "source_shape": tfds.features.Tensor(shape=(len(sides),), dtype=np.int32),
    }
    if len(sides) == 3:
        stored["affine"] = tfds.features.Tensor(shape=(4, 4), dtype=np.float64)
    return stored


def row(example: Mapping[str, Any], source: str = "") -> tuple[Any, ...]:
    """The row of an example in examples.csv: as it is stored, or as it is read from its record."""
    names = (example[key] for key in COLUMNS[:3])
    lists = (
        *(example["image"].shape[:-1], example["spacing"], example["source_shape"]),
        example.get("affine", ()),
    )
    return (
        *(name.decode() if isinstance(name, bytes) else name for name in names),
        example["label"],
        example["unknown"],
        int(example["has_mask"]),
        *(" ".join(map(str, np.ravel(numbers).tolist())) for numbers in lists),
        source,
    )
