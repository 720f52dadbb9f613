"""An orderly end when the system, or the user, asks for it."""

import contextlib
import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import Any

import jax

from multimix_jax import parallel

STATUS = 75  # of the process; EX_TEMPFAIL: the same command goes on
GRACE = 8.0  # seconds to save in
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """Training was stopped from outside; everything was saved."""


class Stopping(contextlib.AbstractContextManager):
    """Notes SIGTERM and SIGINT, for a training loop to ask for; ends the process where none does.

    While XLA compiles, or a model is evaluated, no loop asks. Then the process ends by itself after
    GRACE seconds, with STATUS: what was saved before is whole, and the rest is done again. A second
    SIGINT ends it at once.
    """

    def __enter__(self) -> "Stopping":
        self._noted = threading.Event()
        self._left = threading.Event()
        self._asked: jax.Array | None = None
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # only that may listen
            # A thread hears the bytes that Python writes here even while the main one computes.
            self._ear, self._mouth = socket.socketpair()
            self._mouth.setblocking(False)
            self._fd_before = signal.set_wakeup_fd(self._mouth.fileno())
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, _ignore)
            self._thread = threading.Thread(target=self._listen, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._left.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(self._fd_before)
            self._mouth.close()
            self._thread.join()
            self._ear.close()

    def requested(self) -> bool:
        """Whether to stop after this step. Of several processes, all are told the same: what was
        so for any of them one step ago, so that the device never waits for the host."""
        if jax.process_count() == 1:
            return self._noted.is_set()
        before, self._asked = self._asked, parallel.any_process(self._noted.is_set())
        return before is not None and bool(before)

    def _listen(self) -> None:
        while numbers := self._ear.recv(16):
            heard = [number for number in numbers if number in _SIGNALS]
            if not heard:
                continue
            if self._noted.is_set() and signal.SIGINT in heard:
                os._exit(128 + signal.SIGINT)
            if not self._noted.is_set():
                self._noted.set()
                threading.Thread(target=self._insist, daemon=True).start()

    def _insist(self) -> None:
        if not self._left.wait(GRACE):
            print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
            sys.stderr.flush()
            os._exit(STATUS)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Stands in for the default, so that Python passes the signal on."""
    del number, frame
