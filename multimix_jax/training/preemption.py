"""An orderly end when the system, or the user, asks for it."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Self

import jax
from tqdm import tqdm

from multimix_jax.training import parallel

STATUS = 75  # of the process; EX_TEMPFAIL: the same command goes on
NOTHING_UNSAVED = 8.0  # seconds to end by itself in, where no step would be lost
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preempted(Exception):
    """Training was stopped from outside; everything was saved."""


class PreemptionGuard(contextlib.AbstractContextManager):
    """Notes SIGTERM and SIGINT, for a training loop to ask for; ends the process where none does.

    While there are steps that no checkpoint on disk holds, the loop has `grace_period` seconds to
    finish its step and save. Where nothing would be lost (any more), because XLA compiles the first
    step, say, or a test set is evaluated, the process ends by itself after NOTHING_UNSAVED seconds.
    Either way it ends with STATUS, and what was saved before is whole. A second SIGINT ends it at
    once.
    """

    def __init__(self, grace_period: float):
        self._grace_period = grace_period
        self._on_disk: Callable[[], int] = lambda: 0
        self._step = 0
        self._signaled, self._left = threading.Event(), threading.Event()
        self._any_signaled: jax.Array | None = None
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self  # Python hands signals to the main thread alone
        # Python's own handlers wait until the main thread has left XLA; the numbers of the signals
        # are written to the wakeup file descriptor at once, for a thread to read.
        receiver, sender = socket.socketpair()
        sender.setblocking(False)
        listener = threading.Thread(target=self._listen, args=(receiver,), daemon=True)
        listener.start()
        for undo in (receiver.close, listener.join, sender.close):
            self._undo.callback(undo)
        self._undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(sender.fileno()))
        for number in _SIGNALS:  # a handler in place of the default, so that Python passes it on
            self._undo.callback(signal.signal, number, signal.signal(number, lambda *_: None))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._left.set()
        self._undo.close()

    def begin(self, step: int, on_disk: Callable[[], int]) -> None:
        """A training loop begins after `step`; `on_disk` gives that of the newest whole checkpoint,
        0 if there is none."""
        self._on_disk, self._step = on_disk, step

    def requested(self, step: int) -> bool:
        """Whether to stop after this `step`. Of several processes, all are told the same: what was
        so for any of them one step ago, so that the device never waits for the host."""
        self._step = step
        if jax.process_count() == 1:
            return self._signaled.is_set()
        before = self._any_signaled
        self._any_signaled = parallel.any_process(self._signaled.is_set())
        return before is not None and bool(before)

    def _listen(self, receiver: socket.socket) -> None:
        while numbers := receiver.recv(16):
            received = [number for number in numbers if number in _SIGNALS]
            if not received:
                continue
            if self._signaled.is_set() and signal.SIGINT in received:
                os._exit(128 + signal.SIGINT)
            if not self._signaled.is_set():
                self._signaled.set()
                name = signal.Signals(received[0]).name
                threading.Thread(target=self._end_in_time, args=(name,), daemon=True).start()

    def _end_in_time(self, name: str) -> None:
        """Says at once what is waited for, and ends the process when it has taken too long."""
        begun = saved_since = time.monotonic()
        if self._unsaved():
            most = f"up to {self._grace_period:g} s (config.grace_period)"
            _say(f"{name}: waiting for the step and its checkpoint, {most}")
        else:
            _say(f"{name}: no step to save; ending within {NOTHING_UNSAVED:g} s")
        while not self._left.wait(0.1):
            now, unsaved = time.monotonic(), self._unsaved()
            if unsaved:
                saved_since = now
                waited, limit = now - begun, self._grace_period
            else:
                waited, limit = now - saved_since, NOTHING_UNSAVED
            if waited < limit:
                continue
            lost = ""
            if unsaved:
                lost = (
                    f" {limit:g} s after {name}, before a checkpoint was written: "
                    f"lost are the steps {unsaved[0]} to {unsaved[-1]}"
                )
            _say(f"stopped{lost}; the same command goes on from the last checkpoint")
            os._exit(STATUS)

    def _unsaved(self) -> range:
        """The steps that were begun and that no checkpoint on disk holds."""
        return range(self._on_disk() + 1, self._step + 1)


def _say(line: str) -> None:
    """To stderr, above a progress bar if there is one."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()
