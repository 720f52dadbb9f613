"""How commands end."""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def ends_quietly() -> Iterator[None]:
    """Has a command whose output goes into `head` end as others do: no traceback, status 141."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, since Python complains where it fails at the very end
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        sys.exit(128 + signal.SIGPIPE)


@contextlib.contextmanager
def one_line_errors(errors: tuple[type[Exception], ...], workdir: str) -> Iterator[None]:
    """Ends the process with one line and status 1 for what a user can mend.

    Args:
      errors: what means that something that was asked for cannot be done.
      workdir: named where its disk is full.
    """
    try:
        yield
    except errors as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(
            f"error: the disk of --workdir={workdir} is full ({error}); make room, and the same "
            "command goes on from the last checkpoint"
        )
