"""A folder whose files are known to be as they were written, by a list of their checksums."""

import hashlib
import json
import pathlib

from multimix_jax import atomic

_LIST = "checksums.json"


def write(folder: pathlib.Path) -> None:
    """Lists the checksum of each file of the folder, in `checksums.json`."""
    atomic.write_json(folder / _LIST, _checksums(folder))


def find_fault(folder: pathlib.Path) -> str:
    """What is wrong with the files of a folder; '' if they are as `write` saw them."""
    try:
        listed = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        current = _checksums(folder)
    except (OSError, ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    if not isinstance(listed, dict):
        return f"{_LIST} lists no checksums"
    for name in sorted(listed.keys() | current.keys()):
        if name not in current:
            return f"{name} is missing"
        if listed.get(name) != current[name]:
            return f"the checksum of {name} does not agree"
    return ""


def _checksums(folder: pathlib.Path) -> dict[str, str]:
    checksums = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != _LIST:
            with path.open("rb") as file:
                checksums[name] = hashlib.file_digest(file, "blake2b").hexdigest()
    return checksums
