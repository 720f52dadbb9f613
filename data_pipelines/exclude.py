"""The list of examples to exclude, as `multimix-audit --exclude_list` writes it."""

import csv
from collections.abc import Mapping
from pathlib import Path

from data_pipelines.files import table

COLUMNS = ("data_set", "id", "reason")


def write(path: Path, reasons: Mapping[tuple[str, str], str]) -> None:
    """Writes why to exclude which (data set, id)."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows((*entry, reason) for entry, reason in sorted(reasons.items()))


def read(path: str | Path) -> dict[str, frozenset[str]]:
    """Ids to exclude, by data set.

    Raises:
        DataError: there is no such file, or it is none of these lists.
    """
    ids: dict[str, set[str]] = {}
    due = f"a list of examples to exclude (--config.exclude) has {', '.join(COLUMNS)}"
    for _, row in table.read_rows(Path(path), ("data_set", "id"), due):
        ids.setdefault(row["data_set"], set()).add(row["id"])
    return {name: frozenset(excluded) for name, excluded in ids.items()}
