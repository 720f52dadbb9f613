"""What this process holds, as Linux counts it, for tests that nothing grows."""

import contextlib
import ctypes
import gc
import pathlib
from collections.abc import Iterator

import pytest

_SELF = pathlib.Path("/proc/self")

on_linux = pytest.mark.skipif(
    not (_SELF / "status").exists(), reason="counts what Linux shows in /proc/self"
)


def memory() -> int:
    """Bytes resident, but for those of files; garbage is collected first, and what malloc keeps of
    freed memory given back."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)
    status = (_SELF / "status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


@contextlib.contextmanager
def only_new_garbage() -> Iterator[None]:
    """What is there by now is left alone, so that `memory` need not go through it each time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def threads() -> int:
    return len(list((_SELF / "task").iterdir()))


def open_files() -> int:
    return len(list((_SELF / "fd").iterdir()))
