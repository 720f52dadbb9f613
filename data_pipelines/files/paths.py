"""Names and folders of files."""

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from data_pipelines.errors import DataError


def files_below(roots: Iterable[Path]) -> Iterator[Path]:
    """Yields the files in and below each root, sorted; hidden ones and __MACOSX are skipped."""
    for root in roots:
        for folder, folders, names in os.walk(root, followlinks=True):
            folders[:] = sorted(name for name in folders if not is_stray(name))
            yield from (Path(folder, name) for name in sorted(names) if not is_stray(name))


def files_by_name(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The files below `folder` with one of the suffixes, by their relative paths without it, in
    `one_form`; a DataError where two differ in their suffix, or in the form, alone.
    """
    files: dict[str, Path] = {}
    for path in files_below([folder]):
        suffix = next((s for s in suffixes if path.name.lower().endswith(s)), None)
        if suffix is None:
            continue
        name = one_form(path.relative_to(folder).as_posix()[: -len(suffix)])
        if name in files:
            raise DataError(f"{files[name]} and {path} have the same name; rename one of them")
        files[name] = path
    return files


def one_form(name: str) -> str:
    """A name in Unicode's composed form (NFC): macOS and archives made there take an accent for a
    character of its own, so that a name that looks the same is written otherwise.
    """
    return unicodedata.normalize("NFC", name)


def is_stray(name: str) -> bool:
    """Whether a file or a folder is not of a data set: hidden, or left by an archiver."""
    return name.startswith(".") or name == "__MACOSX"


def is_text(name: str) -> bool:
    """Whether a name can be written to a table: those of files may hold bytes that are no text."""
    return not any(char < " " or "\ud800" <= char <= "\udfff" for char in name)


def stays_below(name: str) -> bool:
    """Whether it is text that names a path within whatever folder it is put below."""
    path = PurePosixPath(name.replace("\\", "/"))
    return name != "" and is_text(name) and not path.is_absolute() and ".." not in path.parts
