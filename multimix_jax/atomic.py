"""Files that are written whole or not at all, or one line that says why not."""

import contextlib
import errno
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from multimix_jax.errors import UsageError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def writing(flag: str, path: str | pathlib.Path) -> Iterator[None]:
    """What keeps a program from writing to `path`, a folder, or below it, ends in a UsageError that
    names the `flag`: what can be seen before the work begins, and what the system says within."""
    target = pathlib.Path(path).absolute()
    try:
        there = next(place for place in (target, *target.parents) if place.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))
        yield
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        if error.errno in _FULL:
            raise UsageError(
                f"the disk of {flag}={path} is full ({reason}); make room, and give the same "
                "command again"
            ) from error
        named = pathlib.Path(os.fsdecode(error.filename or "")).absolute()
        if not error.filename or not (named.is_relative_to(target) or target.is_relative_to(named)):
            raise
        raise UsageError(
            f"{flag}={path} cannot be written ({reason}); name a folder that you may write to"
        ) from error


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Where to write what shall stand at `path`: it is moved there at the end, if all went well."""
    temporary = path.with_name(f".{path.name}.tmp")
    yield temporary
    temporary.replace(path)


def write_json(path: pathlib.Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
