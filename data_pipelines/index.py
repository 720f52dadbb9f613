"""examples.csv of a prepared set: all that is known of each example but its pixels."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from multimix_jax import atomic

FILE = "examples.csv"
COLUMNS = ("id", "group", "split", "label", "has_mask", "shape", "spacing_mm", "affine", "source")


def row(example: Mapping[str, Any], source: str = "") -> dict[str, Any]:
    """The row of an example: as it is stored, or as it is read from its record."""
    identity = {key: example[key] for key in ("id", "group", "split", "label")}
    return {
        **{key: v.decode() if isinstance(v, bytes) else v for key, v in identity.items()},
        "has_mask": int(example["has_mask"]),
        "shape": _join(example["image"].shape[:-1]),
        "spacing_mm": _join(example["spacing"]),
        "affine": _join(example.get("affine", ())),
        "source": source,
    }


def _join(numbers: Any) -> str:
    return " ".join(map(str, np.asarray(numbers).ravel().tolist()))


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes the table, whole or not at all."""
    with atomic.replacing(path) as temporary:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of the table."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
