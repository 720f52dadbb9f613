"""Where the files of an example lie."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

Roots = Sequence[Path]  # where files of a set lie: the source folder, then extracted archives


@dataclasses.dataclass(frozen=True)
class Source:
    """One example before anything is decoded: who it is and where its files lie."""

    id: str
    group: str
    split: str = ""
    image: Path | None = None
    masks: tuple[Path, ...] = ()
    label: int = -1  # a class; of a multi-label set bit k is set for class k; -1 for unknown
    unknown: int = 0  # of a multi-label set bit k is set where class k is not known
    empty: bool = False  # was looked at, so that without `masks` nothing is there to be marked
