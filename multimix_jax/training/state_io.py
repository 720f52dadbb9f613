"""The state of a training on disk, as a checkpoint of Orbax."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from multimix_jax.state import TrainState

PyTree = Any


class DifferentModel(Exception):
    """A state was saved by another model."""


def write_state(path: pathlib.Path, state: TrainState) -> None:
    """Writes the arrays of a state, which this process holds whole, to a new folder."""
    with _orbax() as orbax:
        orbax.save(path, args=ocp.args.PyTreeSave(state))


def read_state(
    path: pathlib.Path, choose: Callable[[Mapping[str, PyTree]], TrainState | Mapping[str, PyTree]]
) -> PyTree:
    """Reads a state or, given a mapping, parts of it by the names of its fields.

    Args:
      path: as it was written.
      choose: from the shapes of what was saved to what is to be read, as arrays or shapes; it is
        shaped and placed like these.

    Raises:
      DifferentModel: what was saved has other arrays.
    """
    with _orbax() as orbax:
        saved = orbax.metadata(path).item_metadata.tree
        like = choose(saved)
        _check_model(saved, like)
        arguments = ocp.args.PyTreeRestore(
            jax.tree.map(ocp.utils.to_shape_dtype_struct, like),
            restore_args=ocp.checkpoint_utils.construct_restore_args(like),
            partial_restore=True,
        )
        return orbax.restore(path, args=arguments)


def _orbax() -> ocp.Checkpointer:
    """Of this process by itself, whatever other processes do."""
    this = jax.process_index()
    options = ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _check_model(saved: Mapping[str, PyTree], like: TrainState | Mapping[str, PyTree]) -> None:
    """Raises DifferentModel where the arrays differ.

    Orbax would, too, but it leaves reads behind that fail later, each with a traceback.
    """
    wanted = like if isinstance(like, Mapping) else vars(like)
    theirs, ours = _shapes({name: saved[name] for name in wanted}), _shapes(wanted)
    for name in sorted(theirs.keys() | ours.keys()):
        there, here = theirs.get(name), ours.get(name)
        if there != here:
            raise DifferentModel(f"{name} is {there}, but {here} in the model")


def _shapes(tree: PyTree) -> dict[str, str]:
    """Type and shape of each array, by its name on disk."""
    arrays = ocp.tree.to_flat_dict(tree, sep=".")
    return {name: f"{array.dtype}{list(array.shape)}" for name, array in arrays.items()}
