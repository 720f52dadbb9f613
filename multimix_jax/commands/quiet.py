"""How a command ends whose output nobody reads on."""

import contextlib
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still held
        sys.exit(128 + signal.SIGPIPE)
