"""What JAX reads when it is imported: four fake devices, quick compilation, a cache for all.

Workers of pytest, and what the tests start, inherit it.
"""

import importlib.metadata
import os
import tempfile

QUICK = [
    "--xla_force_host_platform_device_count=4",
    # Compiling takes most of the time, and tiny tensors gain nothing from the effort.
    "--xla_backend_optimization_level=0",
]
# XLA ends the process at a flag that it does not know: a later version at these, say.
_version = tuple(map(int, importlib.metadata.version("jax").split(".")[:2]))
if (0, 10) <= _version < (0, 13):
    QUICK.append("--xla_cpu_parallel_codegen_split_count=1")
if _version == (0, 10):
    QUICK.append("--xla_cpu_use_fusion_emitters=false")

_given = os.environ.get("XLA_FLAGS", "").split()
os.environ["XLA_FLAGS"] = " ".join([*_given, *(flag for flag in QUICK if flag not in _given)])
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # what one process compiles, all others load
    _programs = tempfile.TemporaryDirectory(prefix="multimix_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
