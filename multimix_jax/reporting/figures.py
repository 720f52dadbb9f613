"""What runs/run.py calls until it calls `selection` and `record` instead; then this file goes."""

from typing import Any

import numpy as np

from multimix_jax.reporting import selection
from multimix_jax.reporting.pictures import as_gray, grid, heat, middle, mosaic, overlay, signed
from multimix_jax.reporting.selection import caption, instructive
from multimix_jax.runs.picture_files import shrink as shrunk
from multimix_jax.runs.picture_files import stack as stacked

__all__ = [
    "as_gray",
    "caption",
    "grid",
    "heat",
    "instructive",
    "middle",
    "mosaic",
    "overlay",
    "shrunk",
    "signed",
    "slices",
    "stacked",
]


def slices(volume: np.ndarray) -> list[tuple[str, Any]]:
    """See `selection.slices`."""
    name = lambda place: "" if place < 0 else f"\nslice {place}"
    return [(name(place), at) for place, at in selection.slices(volume)]
