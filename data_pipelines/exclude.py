"""The list of examples to leave out, as `multimix-audit --fix_list` writes it."""

import csv
from collections.abc import Mapping
from pathlib import Path

from data_pipelines.files import table

COLUMNS = ("data_set", "id", "reason")


def write(path: Path, reasons: Mapping[tuple[str, str], str]) -> None:
    """Writes why to leave out which (data set, id)."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows((*entry, reason) for entry, reason in sorted(reasons.items()))


def read(path: str | Path) -> dict[str, frozenset[str]]:
    """Ids to leave out, by data set.

    Raises:
        DataError: there is no such file, or it is none of these lists.
    """
    found: dict[str, set[str]] = {}
    due = f"a list of examples to leave out (--config.leave_out) has {', '.join(COLUMNS)}"
    for _, row in table.read_rows(Path(path), ("data_set", "id"), due):
        found.setdefault(row["data_set"], set()).add(row["id"])
    return {name: frozenset(ids) for name, ids in found.items()}
