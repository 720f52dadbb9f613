"""How a step is spread over devices: the only file that knows there is more than one."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from multimix_jax.errors import UsageError

PyTree = Any
AXIS = "batch"
_CACHED_PIXELS = 2 * 128**2  # of a stream; the fastest at sides 64, 128 and 256, by measurement
_LIBRARIES = "xla_cpu_experimental_ynn_fusion_type"  # what XLA takes from YNNPACK


@dataclasses.dataclass(frozen=True)
class Spread:
    """A step compiled for several devices, and how to hand it its arguments.

    Attributes:
      step: (state, batch) -> (state, metrics); donates the state.
      put_state: places a state (the same on every device, no leading device axis).
      put_batch: places a batch of NumPy arrays [B,...], this process's share, split over devices.
    """

    step: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]
    put_state: Callable[[PyTree], PyTree]
    put_batch: Callable[[PyTree], PyTree]


def make_spread(
    step: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]],
    *,
    spelling: str = "pmap",
    devices: Sequence[jax.Device] | None = None,
) -> Spread:
    """Spreads `step`, written for one shard with collectives over `AXIS`, over `devices`.

    Args:
      step: as `train.make_train_step(..., axis_name=parallel.AXIS)` gives it.
      spelling: 'pmap', or 'jit' (jit over a mesh); both give the same numbers.
      devices: all by default.

    Raises:
      UsageError: unknown spelling.
    """
    devices = list(devices or jax.devices())
    mesh = _mesh(devices)
    replicated = NamedSharding(mesh, PartitionSpec())
    put_state = lambda state: jax.device_put(state, replicated)
    if spelling == "pmap":
        mapped = jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=(None, None),
            donate_argnums=(0,),
            devices=devices,
        )
        local = [d for d in devices if d.process_index == jax.process_index()]
        over_local = NamedSharding(_mesh(local), PartitionSpec(AXIS))

        def put_batch(batch: PyTree) -> PyTree:
            split = lambda x: x.reshape(len(local), len(x) // len(local), *x.shape[1:])
            return jax.device_put(jax.tree.map(split, batch), over_local)

        return Spread(mapped, put_state, put_batch)
    if spelling == "jit":
        spread = jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=(PartitionSpec(), PartitionSpec()),
            # The step averages its gradients itself; the check would sum them a second time.
            check_vma=False,
        )
        over_all = NamedSharding(mesh, PartitionSpec(AXIS))
        put_batch = lambda batch: jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(over_all, x), batch
        )
        return Spread(jax.jit(spread, donate_argnums=(0,)), put_state, put_batch)
    raise UsageError(f"parallel={spelling!r} is unknown; use 'pmap' or 'jit' (config.parallel)")


def make_predict(
    predict: Callable[[PyTree, Any], PyTree],
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Callable[[PyTree, np.ndarray], PyTree]:
    """Compiles `predict(variables, images)` over devices, images [B,H,W,C] split.

    Batches are filled up to a multiple of the devices and cut again.

    Args:
      predict: gives arrays of one entry per image.
      devices: this process's by default.
    """
    mesh = _mesh(list(devices or jax.local_devices()))
    replicated, split = (
        NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec(AXIS))
    )

    compiled = jax.jit(predict, in_shardings=(replicated, split), out_shardings=split)

    def padded(variables: PyTree, images: np.ndarray) -> PyTree:
        missing = -len(images) % mesh.size
        filled = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
        output = compiled(variables, filled)
        return jax.tree.map(lambda x: x[: len(images)], output) if missing else output

    return padded


def check_divisible(batch_size: int, accumulate: int, device_count: int | None = None) -> None:
    """Raises UsageError where a batch cannot be split evenly over devices and micro-batches."""
    device_count = jax.device_count() if device_count is None else device_count
    parts = device_count * accumulate
    if batch_size % parts:
        raise UsageError(
            f"batch_size={batch_size} does not divide into {device_count} devices x "
            f"{accumulate} accumulated parts; set config.batch_size to a multiple of {parts}"
        )


def parts_for_caches(batch_size: int, size: int, device_count: int | None = None) -> int:
    """Parts of a batch whose layers stay in a CPU's caches, one after the other; elsewhere one.

    Args:
      batch_size: images per stream, over all devices.
      size: side of the images in pixels.
      device_count: all devices by default.
    """
    share, rest = divmod(batch_size, device_count or jax.device_count())
    if rest or jax.default_backend() != "cpu":
        return 1
    parts = [n for n in range(1, share + 1) if share % n == 0]
    return next((n for n in parts if share // n * size**2 <= _CACHED_PIXELS), share)


def memory_bytes() -> int:
    """What a device has: an accelerator's own limit, else this machine's memory."""
    limits = jax.local_devices()[0].memory_stats() or {}
    return limits.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def keep_compiled() -> None:
    """Keeps compiled programs in the user's cache folder, so that a second start is quick."""
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "multimix_jax", "xla"))


def set_xla_flags() -> None:
    """Lets XLA on CPU take convolutions and matrix products from Eigen; before the first array.

    Its choice since jaxlib 0.10 is YNNPACK, which is slower for the shapes of these networks
    (docs/performance.md). Flags that the user has set stay as they are.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    # XLA ends the process at a flag that it does not know; later versions may not know this one.
    known = (0, 10) <= tuple(map(int, jax.lib.__version__.split(".")[:2])) < (0, 13)
    if known and _LIBRARIES not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{_LIBRARIES}=LIBRARY_FUSION_TYPE_REDUCE".strip()


def prefetch(batches: Iterator[PyTree], put: Callable[[PyTree], PyTree]) -> Iterator[PyTree]:
    """Places each batch while the one before is being worked on; copies run asynchronously."""
    ahead: PyTree | None = None
    for batch in batches:
        placed = put(batch)
        if ahead is not None:
            yield ahead
        ahead = placed
    if ahead is not None:
        yield ahead


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))
