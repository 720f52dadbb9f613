"""Four fake devices, quick compilation, and JAX at its strictest, for every test."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=4"
    # Compiling takes most of the time, and tiny tensors gain nothing from the effort.
    + " --xla_backend_optimization_level=0"
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from multimix_jax import parallel

parallel.set_xla_flags()  # as launch.py does: a run goes on bit for bit under the same flags alone
jax.config.update("jax_numpy_rank_promotion", "raise")
