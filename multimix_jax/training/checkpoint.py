"""Checkpoints of a run: the last ones, to go on from, and the best on validation."""

import contextlib
import hashlib
import inspect
import json
import logging
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from multimix_jax.errors import UsageError
from multimix_jax.names import Checkpoint
from multimix_jax.state import TrainState
from multimix_jax.training import parallel

PyTree = Any

_logger = logging.getLogger(__name__)


class Checkpoints(contextlib.AbstractContextManager):
    """`WORKDIR/checkpoints/{last,best}/STEP`, written in the background and whole or not at all.

    Each holds checksums of what is in it; one that does not agree with its own is never used.
    Leaving the context waits for what is still being written.
    """

    def __init__(self, workdir: str | pathlib.Path, *, alone: bool = False):
        """Args:
        workdir: folder of the run; the same one for all processes, if there are several.
        alone: only this one of several processes reads; else all do everything together.
        """
        self._alone = alone
        self._root = pathlib.Path(workdir).absolute() / "checkpoints"
        if alone:  # orbax makes no folders then
            for which in (Checkpoint.LAST, Checkpoint.BEST):
                (self._root / which).mkdir(parents=True, exist_ok=True)
        self._managers = {
            Checkpoint.LAST: self._manager(Checkpoint.LAST, keep=2),
            Checkpoint.BEST: self._manager(Checkpoint.BEST, keep=1),
        }

    def _manager(self, which: str, keep: int) -> ocp.CheckpointManager:
        """Orbax' manager, which looks at all checkpoints and raises where one is damaged.

        Raises:
          UsageError: none is sound.
        """
        make = lambda: ocp.CheckpointManager(
            self._root / which,
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                cleanup_tmp_directories=not self._alone,
                create=not self._alone,
                multiprocessing_options=_processes(which, self._alone),
            ),
        )
        try:
            return make()
        except Exception:  # of many kinds
            steps = [path for path in (self._root / which).iterdir() if path.name.isdecimal()]
            damaged = {int(path.name): reason for path in steps if (reason := _fault(path))}
            if not damaged:
                raise
            if len(damaged) == len(steps):
                raise self._none_is_sound(which, damaged) from None
            for step, reason in damaged.items():
                self._move_aside(which, step, reason)
            return make()

    def __exit__(self, *exc_info: object) -> None:
        for which, manager in self._managers.items():
            self._finish(which)
            manager.close()

    def save(self, which: str, state: TrainState, meta: dict[str, Any]) -> None:
        """Begins to write `state` and `meta` (JSON values) ; returns at once.

        One that could not be written, on a full disk for instance, is told of in a warning when the
        next is saved, or on leaving; those before it stay.
        """
        manager = self._managers[which]
        self._finish(which)
        step = int(state.step)
        # After a crash the same step may be reached again, with the same content.
        if step in manager.all_steps():
            return
        held = jax.device_get(state)  # of several processes, the first writes what all hold
        sealed = {"meta": meta, "checksums": _checksums(held, meta)}
        arguments = ocp.args.Composite(
            state=ocp.args.PyTreeSave(held), meta=ocp.args.JsonSave(sealed)
        )
        try:
            manager.save(step, args=arguments)
        except Exception as error:  # of many kinds
            if "No space left" not in _reason(error):
                raise
            self._tell_unwritten(which, error)

    def _finish(self, which: str) -> None:
        """Waits for what is being written; tells of what failed, and clears it away."""
        try:
            self._managers[which].wait_until_finished()
        except Exception as error:  # of many kinds, from the threads of orbax and tensorstore
            self._tell_unwritten(which, error)

    def _tell_unwritten(self, which: str, error: Exception) -> None:
        folder = self._root / which
        _logger.warning(
            "a checkpoint could not be written to %s (%s); those before it are kept, training "
            "goes on and tries again at the next",
            folder,
            _reason(error)[-200:],
        )
        for _ in range(25):  # since threads that write other parts of it may not have ended yet
            for path in (unfinished := list(folder.glob("*.orbax-checkpoint-tmp"))):
                shutil.rmtree(path, ignore_errors=True)
            if not unfinished:
                return
            time.sleep(0.2)

    def restore(self, which: str, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest sound checkpoint of that kind, shaped and placed like `like`; None if none.

        Damaged ones are named in a warning and moved to `checkpoints/damaged`.

        Raises:
          UsageError: there are checkpoints, but none that can be read, or of another model.
        """
        restored = self._restore(which, lambda _: _arguments(like))
        return restored and restored[1:]

    def restore_variables(
        self, which: str, like: PyTree | None = None, *, average: bool = True
    ) -> tuple[int, PyTree, dict[str, Any]] | None:
        """What to evaluate the newest checkpoint with, whatever optimiser it was trained with.

        Args:
          which: Checkpoint.LAST or Checkpoint.BEST.
          like: `TrainState.eval_variables` of the model; None takes what is there.
          average: take the moving average of the weights, where one was kept.

        Returns:
          Step, variables and `meta`, or None.

        Raises:
          UsageError: as for `restore`.
        """
        names = {"batch_stats": "batch_stats"}

        def arguments(held: Mapping[str, Any]) -> Any:
            averaged = average and held["ema_params"] is not None
            names["params"] = "ema_params" if averaged else "params"
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
        damaged: dict[int, str] = {}
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                state, meta = self._read(which, step, arguments)
            except _Unreadable as error:
                damaged[step] = str(error)
                continue
            for other, reason in damaged.items():
                self._move_aside(which, other, reason)
            if damaged:
                manager.reload()
            return step, state, meta
        if not damaged:
            return None
        raise self._none_is_sound(which, damaged)

    def _none_is_sound(self, which: str, damaged: Mapping[int, str]) -> UsageError:
        named = "; ".join(
            f"checkpoint {self._root / which / str(step)} cannot be read ({reason})"
            for step, reason in damaged.items()
        )
        return UsageError(
            f"{named}; give the --config of this run if it was another one, restore the folder "
            "from a backup, or begin in another --workdir"
        )

    def _read(
        self, which: str, step: int, arguments: Callable[[Mapping[str, Any]], Any]
    ) -> tuple[Any, dict[str, Any]]:
        """State and meta of one checkpoint.

        Raises:
          _Unreadable: it is damaged, or of another model.
        """
        manager = self._managers[which]
        log = logging.getLogger("asyncio")
        # Put back after a read that succeeds, and only then: what a failed one leaves comes late.
        before = sys.excepthook, sys.unraisablehook, log.disabled
        sys.excepthook, sys.unraisablehook = _not_of_late_reads(*before[:2])
        log.disabled = True
        try:
            held = manager.item_metadata(step)["state"].tree
            restored = manager.restore(
                step,
                args=ocp.args.Composite(state=arguments(held), meta=ocp.args.JsonRestore()),
            )
            sys.excepthook, sys.unraisablehook, log.disabled = before
            state, sealed = restored["state"], restored["meta"]
            wanted = sealed["checksums"]
            for name, found in _checksums(state, sealed["meta"]).items():
                if wanted[name] != found:
                    raise ValueError(f"the checksum of {name} does not agree")
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
            raise _Unreadable(_reason(error)) from error
        return state, sealed["meta"]

    def _move_aside(self, which: str, step: int, reason: str) -> None:
        """A damaged checkpoint makes room, so that its step can be saved again."""
        here, there = self._root / which / str(step), self._root / "damaged" / f"{which}_{step}"
        _logger.warning(
            "checkpoint %s is damaged (%s): moved to %s, an older one is used", here, reason, there
        )
        if self._alone or parallel.is_first():
            there.parent.mkdir(exist_ok=True)
            shutil.rmtree(there, ignore_errors=True)
            here.rename(there)
        if not self._alone:
            parallel.wait_for_all()


def read_variables(
    workdir: pathlib.Path, which: str, like: PyTree | None = None, *, average: bool = True
) -> tuple[int, PyTree]:
    """Step and variables of a run's checkpoint; see `Checkpoints.restore_variables`.

    Raises:
      UsageError: the folder holds no such checkpoint, or none that can be read.
    """
    if not (workdir / "checkpoints").is_dir():
        raise UsageError(f"{workdir} holds no checkpoints; name the folder of a run")
    with Checkpoints(workdir) as checkpoints:
        restored = checkpoints.restore_variables(which, like, average=average)
    if restored is None:
        other = Checkpoint.LAST if which == Checkpoint.BEST else Checkpoint.BEST
        raise UsageError(f"{workdir} holds no {which!r} checkpoint; ask for the {other!r} one")
    return restored[:2]


def newest_step(workdir: pathlib.Path, which: str) -> int:
    """Of the checkpoints that lie whole in a run's folder; 0 if there is none."""
    try:
        names = [path.name for path in (workdir / "checkpoints" / which).iterdir()]
    except OSError:  # no folder yet, or a disk that does not answer
        return 0
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _fault(path: pathlib.Path) -> str:
    """Why orbax cannot as much as list a checkpoint, when it is alone in a folder; '' if it can."""
    with tempfile.TemporaryDirectory() as alone:
        pathlib.Path(alone, path.name).symlink_to(path)
        options = ocp.CheckpointManagerOptions(
            read_only=True, multiprocessing_options=_processes("alone", alone=True)
        )
        try:
            ocp.CheckpointManager(alone, options=options).close()
        except Exception as error:  # of many kinds
            return _reason(error)
    return ""


def _processes(which: str, alone: bool) -> ocp.options.MultiprocessingOptions:
    """Who takes part; two managers at once must not wait at each other's barriers."""
    this = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=this if alone else 0,
        active_processes={this} if alone else None,
        barrier_sync_key_prefix=which,
    )


class _Unreadable(Exception):
    """Why a checkpoint cannot be used."""


def _reason(error: BaseException) -> str:
    """Kind and first line of what an error comes from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def _checksums(state: Any, meta: Mapping[str, Any]) -> dict[str, str]:
    """Of each part of a state, and of what is kept with it."""
    parts = dict(state) if isinstance(state, Mapping) else vars(state)
    found = {"meta": hashlib.blake2b(json.dumps(meta, sort_keys=True).encode()).hexdigest()}
    for name, part in parts.items():
        digest = hashlib.blake2b(digest_size=16)
        for path, leaf in jax.tree_util.tree_leaves_with_path(part):
            array = np.asarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        found[name] = digest.hexdigest()
    return found


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
