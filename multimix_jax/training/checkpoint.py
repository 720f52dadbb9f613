"""Checkpoints of a run: the last ones, to go on from, and the best on validation."""

import concurrent.futures
import contextlib
import errno
import hashlib
import json
import logging
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from multimix_jax import atomic
from multimix_jax.errors import UsageError
from multimix_jax.names import Checkpoint
from multimix_jax.state import TrainState
from multimix_jax.training import parallel

PyTree = Any
_KEPT = {Checkpoint.LAST: 2, Checkpoint.BEST: 1}
_STATE, _META, _CHECKSUMS = "state", "meta.json", "checksums.json"
_TRIES = 10  # to read a checkpoint of a run that replaces them meanwhile
_logger = logging.getLogger(__name__)


class Checkpoints(contextlib.AbstractContextManager):
    """`WORKDIR/checkpoints/{last,best}/STEP`, written in the background and whole or not at all.

    Each holds `state`, a checkpoint of Orbax; `meta.json`; and `checksums.json`, of all files of
    both: one that does not agree with them is never used. Of several processes the first writes.
    Leaving the context waits for what is still being written.
    """

    def __init__(self, workdir: str | pathlib.Path):
        self._root = pathlib.Path(workdir).absolute() / "checkpoints"
        # One thread, so that checkpoints appear in the order in which they were saved.
        self._writer = concurrent.futures.ThreadPoolExecutor(1)
        self._writing: dict[str, concurrent.futures.Future[None]] = {}

    def __exit__(self, *exc_info: object) -> None:
        self._writer.shutdown()
        for writing in self._writing.values():
            writing.result()

    def save(self, which: str, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Begins to write `state` and `meta` (JSON values); returns at once.

        One that cannot be written, on a full disk for instance, is named in a warning; those before
        it stay. So does one of the same step, which is reached again after a crash, with the same
        content.

        Raises:
          OSError: the one before could not be written for another reason, or on leaving this one.
        """
        if which in self._writing:  # so that no more than one of a kind waits in memory
            self._writing[which].result()
        if parallel.is_first():
            state, text = jax.device_get(state), json.dumps(meta, indent=2)
            self._writing[which] = self._writer.submit(self._write, which, state, text)

    def _write(self, which: str, state: TrainState, meta: str) -> None:
        folder, step = self._root / which, int(state.step)
        target, temporary = folder / str(step), folder / f".{step}.tmp"
        if target.exists():
            return
        try:
            for left in folder.glob(".*.tmp"):  # by a process that was killed
                _remove(left)
            temporary.mkdir(parents=True)
            with _orbax() as orbax:
                orbax.save(temporary / _STATE, args=ocp.args.PyTreeSave(state))
            (temporary / _META).write_text(meta, encoding="utf-8")
            atomic.write_json(temporary / _CHECKSUMS, _checksums(temporary))
            temporary.rename(target)
            for old in _steps(folder)[_KEPT[Checkpoint(which)] :]:  # whole, too, until it is gone
                _remove((folder / str(old)).rename(folder / f".{old}.tmp"))
        except Exception as error:  # of many kinds, from Orbax, tensorstore and the system
            _remove(temporary)
            if isinstance(error, OSError) and error.errno != errno.ENOSPC:
                raise  # such as a folder that may not be written to
            _logger.warning(
                f"a checkpoint could not be written to {folder} ({_reason(error)[-200:]}); those "
                "before it are kept, training goes on and tries again at the next"
            )

    def restore(self, which: str, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """State, placed like `like`, and `meta` of the newest sound checkpoint, or None.

        Damaged ones are named in a warning and moved to `checkpoints/damaged`, so that they can be
        saved again. Of several processes all restore together.

        Raises:
          UsageError: there are checkpoints, but none that can be read, or of another model.
        """
        concurrent.futures.wait(self._writing.values())
        parallel.wait_for_all()  # once the first process has written what it was still writing
        damaged: dict[pathlib.Path, str] = {}
        for step in _steps(self._root / which):
            path = self._root / which / str(step)
            fault = _find_fault(path)
            if fault:
                damaged[path] = fault
                continue
            parallel.wait_for_all()  # once all processes know what is damaged
            for other, reason in damaged.items():
                aside = self._root / "damaged" / f"{which}_{other.name}"
                _logger.warning(
                    f"checkpoint {other} is damaged ({reason}): moved to {aside}, an older one is "
                    "used"
                )
                if parallel.is_first():
                    aside.parent.mkdir(exist_ok=True)
                    shutil.rmtree(aside, ignore_errors=True)
                    other.rename(aside)
            return _read_state(path, lambda _: like), _read_meta(path)
        if damaged:
            raise _none_usable(damaged)
        return None


def restore_variables(
    workdir: pathlib.Path, which: str, like: PyTree | None = None, *, average: bool = True
) -> tuple[int, PyTree, dict[str, Any]] | None:
    """Step, variables to evaluate with, whatever optimiser they had, and `meta` of the newest sound
    checkpoint of a run, or None; nothing is written, so that the run may train meanwhile.

    `like` is `TrainState.eval_variables` of the model; None takes what is there. With `average`
    they are the moving average of the weights, where one was kept. Waits for no other process.

    Raises:
      UsageError: there are checkpoints, but none that can be read, or of another model.
    """

    def choose(saved: Mapping[str, PyTree]) -> dict[str, PyTree]:
        averaged = average and saved["ema_params"] is not None
        names = ("ema_params" if averaged else "params", "batch_stats")
        current = saved if like is None else {**like, "ema_params": like["params"]}
        return {name: current[name] for name in names}

    folder = workdir.absolute() / "checkpoints" / which
    for _ in range(_TRIES):
        faults: dict[pathlib.Path, str] = {}
        for step in _steps(folder):
            path = folder / str(step)
            try:
                faults[path] = _find_fault(path)
                if not faults[path]:
                    state, meta = _read_state(path, choose), _read_meta(path)
                    named = {name.removeprefix("ema_"): part for name, part in state.items()}
                    return step, named, meta
            except Exception:  # of many kinds, where files go while they are read
                if path.exists():
                    raise
            if not path.exists():  # a newer one has replaced it
                break
            _logger.warning(f"checkpoint {path} is damaged ({faults[path]}): it is not used")
        else:
            if faults:
                raise _none_usable(faults)
            return None
    raise UsageError(f"{folder} changes faster than it can be read; try again when training ends")


def read_variables(
    workdir: pathlib.Path, which: str, like: PyTree | None = None, *, average: bool = True
) -> tuple[int, PyTree]:
    """Step and variables of a run's checkpoint; see `restore_variables`.

    Raises:
      UsageError: the folder holds no such checkpoint, or none that can be read.
    """
    if not (workdir / "checkpoints").is_dir():
        raise UsageError(f"{workdir} holds no checkpoints; name the folder of a run")
    restored = restore_variables(workdir, which, like, average=average)
    if restored is None:
        other = Checkpoint.LAST if which == Checkpoint.BEST else Checkpoint.BEST
        raise UsageError(f"{workdir} holds no '{which}' checkpoint; ask for the '{other}' one")
    return restored[:2]


def newest_step(workdir: pathlib.Path, which: str) -> int:
    """Of the checkpoints that lie whole in a run's folder; 0 if there is none."""
    return max(_steps(workdir / "checkpoints" / which), default=0)


def _steps(folder: pathlib.Path) -> list[int]:
    """Of the checkpoints that lie whole in a folder, the newest first."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:  # no folder yet, or a disk that does not answer
        return []
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def _orbax() -> ocp.Checkpointer:
    """Of this process by itself, whatever other processes do."""
    this = jax.process_index()
    options = ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _read_state(path: pathlib.Path, choose: Callable[[Mapping[str, PyTree]], PyTree]) -> PyTree:
    """A state or, where `choose` gives a mapping, parts of it by the names of its fields.

    `choose` gets the shapes of what was saved; what is read is shaped and placed like its result.
    """
    with _orbax() as orbax:
        saved = orbax.metadata(path / _STATE).item_metadata.tree
        like = choose(saved)
        wanted = like if isinstance(like, Mapping) else vars(like)
        theirs, ours = _shapes({name: saved[name] for name in wanted}), _shapes(wanted)
        # Orbax notices, too, but leaves reads behind that fail later, each with a traceback.
        for name in sorted(theirs.keys() | ours.keys()):
            there, here = theirs.get(name), ours.get(name)
            if there != here:
                raise _none_usable({path: f"{name} is {there}, but {here} in the model"})
        arguments = ocp.args.PyTreeRestore(
            jax.tree.map(ocp.utils.to_shape_dtype_struct, like),
            restore_args=ocp.checkpoint_utils.construct_restore_args(like),
            partial_restore=True,
        )
        return orbax.restore(path / _STATE, args=arguments)


def _read_meta(path: pathlib.Path) -> dict[str, Any]:
    return dict(json.loads((path / _META).read_text(encoding="utf-8")))


def _shapes(tree: PyTree) -> dict[str, str]:
    """Type and shape of each array, by its name on disk."""
    arrays = ocp.tree.to_flat_dict(tree, sep=".")
    return {name: f"{array.dtype}{list(array.shape)}" for name, array in arrays.items()}


def _checksums(folder: pathlib.Path) -> dict[str, str]:
    """Of each file by its name, but for their own."""
    checksums = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != _CHECKSUMS:
            with path.open("rb") as file:
                checksums[name] = hashlib.file_digest(file, "blake2b").hexdigest()
    return checksums


def _find_fault(folder: pathlib.Path) -> str:
    """What is wrong with the files of a checkpoint; '' if they are as they were written."""
    try:
        listed = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
        current = _checksums(folder)
    except (OSError, ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    if not isinstance(listed, dict):
        return f"{_CHECKSUMS} lists no checksums"
    for name in sorted(listed.keys() | current.keys()):
        if name not in current:
            return f"{name} is missing"
        if listed.get(name) != current[name]:
            return f"the checksum of {name} does not agree"
    return ""


def _remove(folder: pathlib.Path) -> None:
    """Removes a folder, in which threads of tensorstore may still be writing."""
    for _ in range(25):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.2)


def _none_usable(faults: Mapping[pathlib.Path, str]) -> UsageError:
    named = "; ".join(f"checkpoint {path} cannot be read ({why})" for path, why in faults.items())
    return UsageError(
        f"{named}; give the --config of this run if it was another one, restore the folder "
        "from a backup, or begin in another --workdir"
    )


def _reason(error: BaseException) -> str:
    """Kind and first line of what an error comes from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
