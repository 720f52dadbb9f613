"""JAX at its strictest, and one file's programs forgotten before the next, for every test."""

import tests.environment  # noqa: F401 (before JAX)

# isort: split
import gc
import os
import pathlib

import jax
import pytest

from multimix_jax.training import machine

machine.set_xla_flags()  # as launch.py does: a run goes on bit for bit under the same flags alone
jax.config.update("jax_numpy_rank_promotion", "raise")
gc.set_threshold(100_000, 20, 50)  # tracing makes much that lasts; each file is cleared up after

# The files that take longest, so that no worker is left with one of them at the end.
FIRST = [
    "notebook_test.py",
    "launch/dtml_test.py",
    "launch/launch_test.py",
    "training/distributed_test.py",
    "launch/own_data_test.py",
    "launch/grid_test.py",
    "docs_test.py",
]


def pytest_xdist_auto_num_workers() -> int | None:
    """One more than the processors, since some tests wait: for a signal, or for a silence."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # as xdist reads it
    usable = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    return len(usable) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: index for index, name in enumerate(FIRST)}
    tests = pathlib.Path(__file__).parent
    items.sort(key=lambda item: place.get(item.path.relative_to(tests).as_posix(), len(place)))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """The phantom sets, prepared with a few images each; to be read alone."""
    from tests.small_runs import prepare_phantoms  # loads TensorFlow

    folder = tmp_path_factory.mktemp("prepared")
    prepare_phantoms(folder)
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Finished runs of three systems, two of each; to be read alone."""
    from tests.finished_runs import write_run

    folder = tmp_path_factory.mktemp("runs")
    for method in ("unet", "umtl", "umtl_s"):
        for seed in (0, 1):
            write_run(folder, method, seed)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _clear_up():
    """Programs of one file are seldom those of the next, and memory would grow with each."""
    yield
    jax.clear_caches()
    gc.collect()
    gc.freeze()  # what is left, modules most of all, is there to stay and need not be looked at
