"""Checkpoints of a run: the last ones, to go on from, and the best on validation."""

import contextlib
import inspect
import logging
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from multimix_jax.errors import UsageError
from multimix_jax.train_state import TrainState
from multimix_jax.workdir import BEST, LAST

PyTree = Any


class Checkpoints(contextlib.AbstractContextManager):
    """`WORKDIR/checkpoints/{last,best}/STEP`, written in the background and whole or not at all.

    Leaving the context waits for what is still being written.
    """

    def __init__(self, workdir: str | pathlib.Path):
        self._root = pathlib.Path(workdir).absolute() / "checkpoints"
        self._managers = {
            which: ocp.CheckpointManager(
                self._root / which,
                item_handlers={
                    "state": ocp.PyTreeCheckpointHandler(),
                    "meta": ocp.JsonCheckpointHandler(),
                },
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
            state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave(meta)
        )
        manager.save(step, args=arguments)

    def restore(self, which: str, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint of LAST or BEST, shaped and placed like `like`; None if none.

        Raises:
          UsageError: the folder holds a checkpoint that cannot be read or is of another model.
        """
        restored = self._restore(which, lambda _: _arguments(like))
        return restored and restored[1:]

    def restore_variables(
        self, which: str, like: PyTree | None = None
    ) -> tuple[int, PyTree, dict[str, Any]] | None:
        """What to evaluate the newest checkpoint with, whatever optimiser it was trained with.

        Args:
          which: LAST or BEST.
          like: `TrainState.eval_variables` of the model; None takes what is there.

        Returns:
          Step, variables (of the moving average where one was kept) and `meta`, or None.

        Raises:
          UsageError: as for `restore`.
        """
        names = {"batch_stats": "batch_stats"}

        def arguments(held: Mapping[str, Any]) -> Any:
            names["params"] = "params" if held["ema_params"] is None else "ema_params"
            wanted = {
                name: held[name] if like is None else like[part] for part, name in names.items()
            }
            return _arguments(wanted, partial_restore=True)

        restored = self._restore(which, arguments)
        if restored is None:
            return None
        step, found, meta = restored
        return step, {part: found[name] for part, name in names.items()}, meta

    def _restore(
        self, which: str, arguments: Callable[[Mapping[str, Any]], Any]
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """Step, state and meta; `arguments` makes orbax' for the state of what it finds held."""
        manager = self._managers[which]
        manager.wait_until_finished()
        step = manager.latest_step()
        if step is None:
            return None
        hooks, log = (sys.excepthook, sys.unraisablehook), logging.getLogger("asyncio")
        sys.excepthook, sys.unraisablehook = _not_of_late_reads(*hooks)
        log.disabled = True
        try:
            held = manager.item_metadata(step)["state"].tree
            restored = manager.restore(
                step,
                args=ocp.args.Composite(state=arguments(held), meta=ocp.args.JsonRestore()),
            )
            sys.excepthook, sys.unraisablehook = hooks
            log.disabled = False
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            reason = str(cause).strip().splitlines()[:1]
            raise UsageError(
                f"checkpoint {self._root / which / str(step)} cannot be read "
                f"({', '.join([type(cause).__name__, *reason])}); delete that folder to go on from "
                "the one before, or begin in another --workdir"
            ) from error
        return step, restored["state"], restored["meta"]


def _arguments(like: PyTree, **options: bool) -> ocp.args.PyTreeRestore:
    """To restore arrays of these shapes to where these lie."""
    return ocp.args.PyTreeRestore(
        jax.tree.map(ocp.utils.to_shape_dtype_struct, like),
        restore_args=ocp.checkpoint_utils.construct_restore_args(like),
        **options,
    )


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
