"""Four fake devices, quick compilation, and JAX at its strictest, for every test."""

import gc
import os
import tempfile

# Set before JAX is imported, and inherited by pytest's workers and by what the tests start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # what one process compiles, all others load
    _programs = tempfile.TemporaryDirectory(prefix="multimix_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

QUICK = [
    "--xla_force_host_platform_device_count=4",
    # Compiling takes most of the time, and tiny tensors gain nothing from the effort.
    "--xla_backend_optimization_level=0",
]
# XLA ends the process at a flag that it does not know; later versions may not know this one.
if (0, 10) <= tuple(map(int, jax.__version__.split(".")[:2])) < (0, 13):
    QUICK += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
given = os.environ.get("XLA_FLAGS", "").split()
os.environ["XLA_FLAGS"] = " ".join([*given, *(flag for flag in QUICK if flag not in given)])

from multimix_jax import parallel

parallel.set_xla_flags()  # as launch.py does: a run goes on bit for bit under the same flags alone
jax.config.update("jax_numpy_rank_promotion", "raise")
gc.set_threshold(100_000, 20, 50)  # tracing makes much that lasts; each file is cleared up after

# The files that take longest, so that no worker is left with one of them at the end.
FIRST = ["notebook", "dtml_launch", "launch", "distributed", "own_data", "grid_launch", "docs"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: index for index, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem.removesuffix("_test"), len(place)))


@pytest.fixture(scope="module", autouse=True)
def _clear_up():
    """Programs of one file are seldom those of the next, and memory would grow with each."""
    yield
    jax.clear_caches()
    gc.collect()
