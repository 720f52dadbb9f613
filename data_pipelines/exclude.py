"""The list of examples to exclude, as `multimix-audit --exclude_list` writes it."""

from collections.abc import Mapping, Set
from pathlib import Path

from data_pipelines.errors import shown
from data_pipelines.files import table
from data_pipelines.findings import WARNING, note

COLUMNS = ("data_set", "id", "reason")


def read(path: str | Path) -> dict[str, frozenset[str]]:
    """Ids to exclude, by data set."""
    ids: dict[str, set[str]] = {}
    due = f"a list of examples to exclude (--config.exclude) has {', '.join(COLUMNS)}"
    for _, row in table.read_rows(Path(path), ("data_set", "id"), due):
        ids.setdefault(row["data_set"], set()).add(row["id"])
    return {name: frozenset(excluded) for name, excluded in ids.items()}


def choose(images: Mapping[str, Path | None], listed: Set[str], name: str) -> set[str]:
    """Those of the ids, each with its file, that are listed, with or without the file's suffix;
    what is listed and is not in the data set of that name is noted.
    """
    found: dict[str, str] = {}  # entries of the list, and the ids that they mean
    for id_, image in images.items():
        suffixes = image.suffixes if image else []
        endings = ("".join(suffixes[start:]) for start in range(len(suffixes) + 1))
        found |= {id_ + ending: id_ for ending in endings if id_ + ending in listed}
    if strangers := sorted(listed - found.keys()):
        names = shown(", ".join(strangers))
        detail = (
            f"the list of examples to exclude names {len(strangers)} that {name} lacks: {names}"
        )
        note("to be excluded, but not there", WARNING, detail)
    return set(found.values())
