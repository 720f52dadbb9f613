"""How commands begin and end."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator

from multimix_jax.errors import UsageError
from multimix_jax.names import Checkpoint


def make_parser(name: str, help_text: str | None) -> argparse.ArgumentParser:
    """A parser of a command, whose help begins with the docstring of its module."""
    kind = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(name, description=help_text, formatter_class=kind)


def add_which(parser: argparse.ArgumentParser) -> None:
    """The flag that says which weights to read."""
    parser.add_argument(
        "--which",
        choices=tuple(Checkpoint),
        default=Checkpoint.BEST,
        help="the weights that were best on validation, or the last (default: %(default)s)",
    )


@contextlib.contextmanager
def ends_quietly(errors: tuple[type[Exception], ...] = (UsageError,)) -> Iterator[None]:
    """Has a command end without a traceback: with one line and status 1 of `errors`, which a user
    can mend, and of a file that the system keeps it from; where its output goes into `head`, as
    others do, with status 141."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, since Python complains where it fails at the very end
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        sys.exit(128 + signal.SIGPIPE)
    except errors as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.filename is None:
            raise
        path = os.fsdecode(error.filename)
        sys.exit(f"error: {path}: {error.strerror}; correct the path, or who may read and write it")
