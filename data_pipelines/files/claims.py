"""What the header of a file may claim, given what there is of the file."""

import math
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.errors import DataError

MOST_PACKED = 1032  # times as many bytes as it was packed into is the most that deflate gives


def check(path: Path, sides: Sequence[int], what: str, *, most: int, needed: float) -> None:
    """Raises DataError where an array of the `sides` that a file claims, whose entries are called
    `what`, has more than `most` of them, or the file fewer bytes than are `needed`, at least.
    """
    claim = f"{path} claims to hold {'x'.join(map(str, sides))} {what},"
    if min(sides, default=0) < 0:
        raise DataError(f"{claim} which cannot be; copy or export the file again")
    if math.prod(max(side, 1) for side in sides) > most:
        raise DataError(f"{claim} more than {most}; crop it, or copy or export the file again")
    size = path.stat().st_size
    if needed > size:
        raise DataError(f"{claim} more than its {size} bytes can; copy or export the file again")
