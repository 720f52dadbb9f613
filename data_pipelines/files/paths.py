"""Names and folders of files."""

import contextlib
import itertools
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from data_pipelines.errors import DataError, shown
from data_pipelines.findings import NOTE, WARNING, note
from multimix_jax import errors

_NO_TEXT = re.compile("[\0-\x1f\ud800-\udfff]")
DICOM_OTHER = "DICOM without an image"
_NO_IMAGES = {
    *(".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".log", ".ini"),
    *(".pdf", ".doc", ".docx", ".xls", ".xlsx", ".db", ".py", ".list", DICOM_OTHER),
}


def files_below(roots: Iterable[Path], apart: Collection[Path | None] = ()) -> Iterator[Path]:
    """Yields the files in and below each root, sorted, but for those `apart`, files or folders;
    hidden ones and __MACOSX are skipped. Links are followed unless they lead back to where they
    are. Raises DataError for a folder that cannot be looked into.
    """
    for root in roots:
        for folder, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
            folders[:], names = (
                [n for n in sorted(found) if not is_stray(n) and Path(folder, n) not in apart]
                for found in (folders, names)
            )
            folders[:] = [name for name in folders if not _leads_back(root, Path(folder, name))]
            yield from (Path(folder, name) for name in names)


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # as of no files
        raise DataError(
            f"{error.filename} cannot be looked into ({error.strerror}); allow reading it, or move "
            "it away"
        ) from error


def _leads_back(root: Path, folder: Path) -> bool:
    """Whether a folder is a link to one of those between `root` and itself."""
    if not folder.is_symlink():
        return False
    between = itertools.takewhile(lambda place: place != root.parent, folder.parents)
    if back := folder.resolve() in {place.resolve() for place in between}:
        note("links that lead back", NOTE, f"{folder} is a link to a folder that it lies in")
    return back


def sort_out(
    folder: Path, what_is: Callable[[Path], str], apart: Collection[Path | None] = ()
) -> tuple[list[Path], dict[str, list[Path]]]:
    """The files below `folder` that are used, of which `what_is` says ''; and the others, as paths
    from there, by their kind, which it gives. Those `apart` are none of either.
    """
    used: list[Path] = []
    others: dict[str, list[Path]] = {}
    for path in files_below([folder], apart):
        if kind := what_is(path):
            others.setdefault(kind, []).append(path.relative_to(folder))
        else:
            used.append(path)
    return used, others


def passed_over(others: Mapping[str, Sequence[Path]]) -> str:
    """What to say of files that are not used, by their kind: how many, and which; '' of none."""
    kinds = []
    for kind, paths in sorted(others.items()):
        few = ", ".join(shown(str(path)) for path in paths[:3]) + ", ..." * (len(paths) > 3)
        kinds.append(f"{len(paths)} {kind} ({few})")
    count = sum(map(len, others.values()))
    verb = "are" if count > 1 else "is"
    return f"{count} of the files {verb} passed over: {', '.join(kinds)}" if count else ""


def files_by_name(
    folder: Path,
    suffixes: Sequence[str],
    what_is: Callable[[Path], str] | None = None,
    apart: Collection[Path | None] = (),
) -> dict[str, Path]:
    """The files below `folder` with one of the suffixes or, if given, those that `sort_out` takes,
    by their relative paths without suffix, in `one_form`; the others are noted. A DataError where
    two differ in their suffix, or in the form, alone.
    """
    ending = lambda path: next((s for s in suffixes if path.name.lower().endswith(s)), "")
    by_ending = lambda path: "" if ending(path) else suffix_of(path)
    used, others = sort_out(folder, what_is or by_ending, apart)
    if others:
        severity = WARNING if others.keys() - _NO_IMAGES else NOTE
        note("files passed over", severity, f"{folder}: {passed_over(others)}")
    files: dict[str, Path] = {}
    if other := [path.name for path in used if one_form(path.name) != path.name]:
        detail = f"{folder}: {len(other)} names are not in Unicode's composed form, and taken so"
        note("names in another form of Unicode", NOTE, detail)
    for path in used:
        relative = path.relative_to(folder).as_posix()
        name = one_form(relative[: len(relative) - len(ending(path))])
        if name in files:
            raise DataError(f"{files[name]} and {path} have the same name; rename one of them")
        files[name] = path
    return files


def suffix_of(path: Path) -> str:
    """A kind of file, by its name."""
    ending = "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:])
    return ending.lower() or "without suffix"


def size_of(path: Path) -> int:
    """In bytes; -1 where it is no file: a link to none, a pipe, or gone by now."""
    with contextlib.suppress(OSError):
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            return status.st_size
    return -1


def require_file(path: Path) -> None:
    """Raises DataError where it is no file: to open a pipe would wait for ever."""
    if size_of(path) < 0:
        what = "is a link that leads to no file" if path.is_symlink() else "is not a file"
        raise DataError(f"{path} {what}; put the file there, or remove it")


def one_form(name: str) -> str:
    """A name in Unicode's composed form (NFC): macOS and archives made there take an accent for a
    character of its own, so that a name that looks the same is written otherwise.
    """
    return unicodedata.normalize("NFC", name)


def is_stray(name: str) -> bool:
    """Whether a file or a folder is not of a data set: hidden, or left by an archiver."""
    return name.startswith(".") or name == "__MACOSX"


def as_text(name: str) -> str:
    """The name with %FC and its like for what `is_text` refuses."""
    return errors.as_text(name, _NO_TEXT)


def is_text(name: str) -> bool:
    """Whether a name can be written to a table: those of files may hold bytes that are no text."""
    return not _NO_TEXT.search(name)


def stays_below(name: str) -> bool:
    """Whether it is text that names a path within whatever folder it is put below."""
    path = PurePosixPath(name.replace("\\", "/"))
    return name != "" and is_text(name) and not path.is_absolute() and ".." not in path.parts
