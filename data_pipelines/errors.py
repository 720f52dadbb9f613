"""The one exception that means: the data, not the program, is at fault."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from multimix_jax.errors import UsageError


class DataError(UsageError):
    """Says which file, folder or config key is wrong, what was found and how to mend it."""


@contextlib.contextmanager
def refuse_damaged(path: Path, use: str, remedy: str) -> Iterator[None]:
    """Turns whatever a library raises for a damaged file, which may be of any kind, into a
    DataError: that `path` cannot be `use` ('read as NIfTI'), why, and the remedy.
    """
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise  # the disk is full, which is not the file's fault
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(f"{path} cannot be {use} ({reason}); {remedy}") from error


def shown(text: str) -> str:
    """The beginning of a text from a file, which may hold anything, on one line of a message."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:200]
    )
