"""The exception that means: the data, not the program, is at fault; and guards that raise it."""

import contextlib
import errno
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from multimix_jax.errors import UsageError

MOST_PACKED = 1032  # times as many bytes as it was packed into is the most that deflate gives


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
        # Pillow also says where in memory it looked.
        reason = re.sub(r" <\S+ object at 0x\w+>", "", str(error)).strip().partition("\n")[0]
        reason = reason or type(error).__name__
        raise DataError(f"{path} cannot be {use} ({reason}); {remedy}") from error


def refuse_claim(path: Path, sides: Sequence[int], what: str, *, most: int, needed: float) -> None:
    """Raises DataError where an array of the `sides` that a file claims, whose entries are called
    `what`, has more than `most` of them, or the file fewer bytes than are `needed`, at least.
    """
    claim = f"{path} claims to hold {'x'.join(map(str, sides))} {what},"
    if min(sides, default=0) < 0:
        raise DataError(f"{claim} which cannot be; copy or export the file again")
    if math.prod(max(side, 1) for side in sides) > most:
        raise DataError(f"{claim} more than {most}; crop it, or copy or export the file again")
    size = path.stat().st_size
    if needed > size:
        raise DataError(f"{claim} more than its {size} bytes can; copy or export the file again")


def shown(text: str) -> str:
    """The beginning of a text from a file, which may hold anything, on one line of a message."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:200]
    )
