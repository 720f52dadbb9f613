"""Checkpoints of a run: the last ones, to go on from, and the best on validation."""

import contextlib
import inspect
import logging
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp

from multimix_jax.errors import UsageError
from multimix_jax.train_state import TrainState

LAST, BEST = "last", "best"


class Checkpoints(contextlib.AbstractContextManager):
    """`WORKDIR/checkpoints/{last,best}/STEP`, written in the background and whole or not at all.

    Leaving the context waits for what is still being written.
    """

    def __init__(self, workdir: str | pathlib.Path):
        self._root = pathlib.Path(workdir).absolute() / "checkpoints"
        self._managers = {
            which: ocp.CheckpointManager(
                self._root / which,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=keep, cleanup_tmp_directories=True
                ),
            )
            for which, keep in ((LAST, 2), (BEST, 1))
        }

    def __exit__(self, *exc_info: object) -> None:
        for manager in self._managers.values():
            manager.close()

    def save(self, which: str, state: TrainState, meta: dict[str, Any]) -> None:
        """Begins to write `state` and `meta` (JSON values) as LAST or BEST; returns at once."""
        manager = self._managers[which]
        step = int(state.step)
        # After a crash the same step may be reached again, with the same content.
        if step in manager.all_steps():
            return
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
        )
        manager.save(step, args=arguments)

    def restore(self, which: str, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint of LAST or BEST, shaped and placed like `like`; None if none.

        Raises:
          UsageError: the folder holds a checkpoint that cannot be read or is of another model.
        """
        manager = self._managers[which]
        manager.wait_until_finished()
        step = manager.latest_step()
        if step is None:
            return None
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like)),
            meta=ocp.args.JsonRestore(),
        )
        hooks, log = (sys.excepthook, sys.unraisablehook), logging.getLogger("asyncio")
        sys.excepthook, sys.unraisablehook = _not_of_late_reads(*hooks)
        log.disabled = True
        try:
            restored = manager.restore(step, args=arguments)
            sys.excepthook, sys.unraisablehook = hooks
            log.disabled = False
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            reason = str(cause).strip().splitlines()[:1]
            raise UsageError(
                f"checkpoint {self._root / which / str(step)} cannot be read "
                f"({': '.join([type(cause).__name__, *reason])}); delete that folder to go on from "
                "the one before, or begin in another --workdir"
            ) from error
        return restored["state"], restored["meta"]


def _not_of_late_reads(
    excepthook: Callable[..., Any], unraisablehook: Callable[..., Any]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Hooks that pass over what reads still under way say of a restore that failed beside them.

    Each would print a traceback of its own after the one message that counts, until the end of the
    program: their event loop is closed, their coroutines are dropped.
    """
    late = lambda error: isinstance(error, RuntimeError) and "Event loop is closed" in str(error)

    def on_exception(kind: Any, error: Any, traceback: Any) -> None:
        if not late(error):
            excepthook(kind, error, traceback)

    def on_unraisable(ignored: Any) -> None:
        if not (late(ignored.exc_value) or inspect.iscoroutine(ignored.object)):
            unraisablehook(ignored)

    return on_exception, on_unraisable
