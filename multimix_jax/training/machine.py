"""What is set up once for the machine at hand: flags of XLA, compiled programs, memory."""

import os
import sys
from typing import Any

import jax

from multimix_jax import atomic
from multimix_jax.errors import UsageError

_YNNPACK_FLAG = "xla_cpu_experimental_ynn_fusion_type"  # what XLA takes from YNNPACK


def memory_bytes() -> int:
    """What a device has: an accelerator's own limit, else this machine's memory."""
    limits = jax.local_devices()[0].memory_stats() or {}
    return limits.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def keep_compiled() -> None:
    """Keeps compiled programs in the user's cache folder, so that a second start is quick; one line
    on stderr where that cannot be written to."""
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = os.path.join(cache, "multimix_jax", "xla")
        try:
            with atomic.writing("XDG_CACHE_HOME", folder):
                os.makedirs(folder, exist_ok=True)
        except UsageError as error:
            print(f"compiled programs are not kept: {error}", file=sys.stderr)
        else:
            jax.config.update("jax_compilation_cache_dir", folder)


def set_xla_flags() -> None:
    """Lets XLA on CPU take convolutions and matrix products from Eigen; before the first array.

    Its choice since jaxlib 0.10 is YNNPACK, which is slower for the shapes of these networks
    (docs/performance.md). Flags that the user has set stay as they are.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    # XLA ends the process at a flag that it does not know; later versions may not know this one.
    known = (0, 10) <= tuple(map(int, jax.lib.__version__.split(".")[:2])) < (0, 13)
    if known and _YNNPACK_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{_YNNPACK_FLAG}=LIBRARY_FUSION_TYPE_REDUCE".strip()


def quick_options() -> dict[str, Any] | None:
    """To compile what runs once: on CPU, optimising it takes longer than computing it."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
