"""How a step is spread over devices and processes: the only file that knows there are many."""

import contextlib
import dataclasses
import itertools
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import multihost

from multimix_jax.errors import UsageError

PyTree = Any
_Result = TypeVar("_Result")
AXIS = "batch"
HEARTBEAT = 20  # seconds without a sign of life, after which a process counts as gone
_LONG = 7 * 24 * 3600  # seconds to wait for a process that lives: until its work is done
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


@contextlib.contextmanager
def joined(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> Iterator[None]:
    """This process as one of those that train together; to be entered before the first array.

    Only the first writes to stdout. One that fails ends at once, without waiting for the others,
    and then the others end too: at the next sum over all, or after HEARTBEAT seconds.

    Args:
      coordinator_address: HOST:PORT of the first process.
      num_processes, process_id: how many there are; which one this is, from 0. What is None is
        asked of the cluster (SLURM, a TPU pod slice, Kubernetes, Open MPI).

    Raises:
      UsageError: an argument is missing or wrong.
    """
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=_LONG,  # the first one still evaluates
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"this process cannot join the others ({error}); outside of a cluster that JAX knows, "
            "set --coordinator_address=HOST:PORT, --num_processes=N and --process_id=0 to N-1"
        ) from error
    with contextlib.ExitStack() as stack:
        if not is_first():
            silent = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(silent))
        try:
            # The devices must find each other within half a minute, but never again once they have;
            # now all are here, while later one may still compile.
            wait_for_all()
            any_process(False).block_until_ready()
            yield
        except BaseException as error:
            if isinstance(error, SystemExit):
                print(error.code, file=sys.stderr)
            elif isinstance(error, jax.errors.JaxRuntimeError):
                print(
                    f"error: process {jax.process_index()} of {jax.process_count()} has lost the "
                    f"others ({error}); the same commands go on from the last checkpoint",
                    file=sys.stderr,
                )
            else:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)


def is_first() -> bool:
    """Whether this process writes what all of them would write alike."""
    return jax.process_index() == 0


_barriers = itertools.count()


def wait_for_all() -> None:
    """Returns when every process has come here; raises JaxRuntimeError where one is gone."""
    multihost.sync_global_processes(
        f"multimix_{next(_barriers)}", timeout=_LONG, processes=set(range(jax.process_count()))
    )


def first_goes_first(do: Callable[[], _Result]) -> _Result:
    """`do` in the first process, and then, when that is done, in all others at once."""
    if is_first():
        result = do()
        wait_for_all()
        return result
    wait_for_all()
    return do()


def word_of_first(value: float) -> float:
    """The first process's value, in all: for decisions that must not differ."""
    if jax.process_count() == 1:
        return value
    bits = np.array([value], np.float64).view(np.uint32)  # JAX would round it to float32
    return float(np.asarray(multihost_utils.broadcast_one_to_all(bits)).view(np.float64)[0])


def any_process(flag: bool) -> jax.Array:
    """Whether some process says so, bool []; computed behind the steps under way, not awaited."""
    mesh = _mesh(jax.devices())
    split, replicated = (
        NamedSharding(mesh, spec) for spec in (PartitionSpec(AXIS), PartitionSpec())
    )
    flags = np.full(jax.local_device_count(), flag)
    return jax.jit(jax.numpy.any, out_shardings=replicated)(
        jax.make_array_from_process_local_data(split, flags)
    )


def local_copy(tree: PyTree) -> PyTree:
    """Arrays that are the same on all devices, on this process's alone."""
    if jax.process_count() == 1:
        return tree
    replicated = NamedSharding(_mesh(jax.local_devices()), PartitionSpec())
    return jax.tree.map(lambda x: jax.device_put(x.addressable_data(0), replicated), tree)


def make_predict(
    predict: Callable[[PyTree, PyTree], PyTree],
    *,
    devices: Sequence[jax.Device] | None = None,
    quick: bool = False,
) -> Callable[[PyTree, PyTree], PyTree]:
    """Compiles `predict(variables, batch)` over devices, the batch's arrays [B,...] split.

    Batches are filled up to a multiple of the devices and cut again.

    Args:
      predict: gives arrays of one entry per image.
      devices: this process's by default.
      quick: whether the time to compile matters more than that to run.
    """
    mesh = _mesh(list(devices or jax.local_devices()))
    replicated, split = (
        NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec(AXIS))
    )
    compiled = jax.jit(
        predict,
        in_shardings=(replicated, split),
        out_shardings=split,
        compiler_options=_quick_options() if quick else None,
    )

    def padded(variables: PyTree, batch: PyTree) -> PyTree:
        count = len(jax.tree.leaves(batch)[0])
        missing = -count % mesh.size
        fill = lambda x: np.concatenate([x, np.repeat(x[-1:], missing, axis=0)])
        output = compiled(variables, jax.device_put(jax.tree.map(fill, batch), split))
        return jax.tree.map(lambda x: x[:count], output) if missing else output

    return padded


def _quick_options() -> dict[str, Any] | None:
    """On CPU, optimising what is computed once takes longer than computing it."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None


def compile_for_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` of what is computed once."""
    return jax.jit(function, compiler_options=_quick_options())


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
