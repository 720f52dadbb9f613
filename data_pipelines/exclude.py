"""The list of examples to exclude, as `multimix-audit --exclude_list` writes it."""

from pathlib import Path

from data_pipelines.files import table

COLUMNS = ("data_set", "id", "reason")


def read(path: str | Path) -> dict[str, frozenset[str]]:
    """Ids to exclude, by data set."""
    ids: dict[str, set[str]] = {}
    due = f"a list of examples to exclude (--config.exclude) has {', '.join(COLUMNS)}"
    for _, row in table.read_rows(Path(path), ("data_set", "id"), due):
        ids.setdefault(row["data_set"], set()).add(row["id"])
    return {name: frozenset(excluded) for name, excluded in ids.items()}
