"""A step sharded over devices and processes: the only file that knows there are many."""

import collections
import contextlib
import dataclasses
import functools
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
Step = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]
_Result = TypeVar("_Result")
AXIS = "batch"
HEARTBEAT = 20  # seconds without a sign of life, after which a process counts as gone
_LONG = 7 * 24 * 3600  # seconds to wait for a process that lives: until its work is done
_CACHED_PIXELS = 2 * 128**2  # of a stream; the fastest at sides 64, 128 and 256, by measurement


@dataclasses.dataclass(frozen=True)
class ShardedStep:
    """A step compiled for several devices, and how to place its arguments on them.

    `step` donates the state. `put_state` places a state, the same on every device without a leading
    device axis; `put_batch` this process's share of a batch, NumPy arrays [B,...], split over them.
    """

    step: Step
    put_state: Callable[[PyTree], PyTree]
    put_batch: Callable[[PyTree], PyTree]


def shard_step(
    step: Step, *, backend: str = "pmap", devices: Sequence[jax.Device] | None = None
) -> ShardedStep:
    """Compiles `step`, as from `make_train_step(..., axis_name=parallel.AXIS)`, for devices.

    `backend` is 'pmap', or 'jit' (with `jax.shard_map` over a mesh), with the same numbers;
    UsageError for another. `devices` are all by default.
    """
    devices = list(devices or jax.devices())
    put_state = functools.partial(jax.device_put, device=_sharding(devices))
    if backend == "pmap":
        compiled = jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=(None, None),
            donate_argnums=(0,),
            devices=devices,
        )
        local = [d for d in devices if d.process_index == jax.process_index()]
        over_local = _sharding(local, AXIS)

        def put_batch(batch: PyTree) -> PyTree:
            split = lambda x: x.reshape(len(local), len(x) // len(local), *x.shape[1:])
            return jax.device_put(jax.tree.map(split, batch), over_local)

    elif backend == "jit":
        sharded = jax.shard_map(
            step,
            mesh=_sharding(devices).mesh,
            in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=(PartitionSpec(), PartitionSpec()),
            # The step averages its gradients itself; the check would sum them a second time.
            check_vma=False,
        )
        compiled = jax.jit(sharded, donate_argnums=(0,))
        place = functools.partial(jax.make_array_from_process_local_data, _sharding(devices, AXIS))

        def put_batch(batch: PyTree) -> PyTree:
            return jax.tree.map(place, batch)

    else:
        raise UsageError(f"parallel={backend!r} is unknown; use 'pmap' or 'jit' (config.parallel)")
    return ShardedStep(compiled, put_state, put_batch)


@contextlib.contextmanager
def distributed_session(
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    of_cluster: bool,
) -> Iterator[None]:
    """This process as one of those that train together; to be entered before the first array.

    Only the first writes to stdout. One that fails ends at once, without waiting for the others,
    and then the others end too: at the next sum over all, or after HEARTBEAT seconds.

    What is None of HOST:PORT of the first process, their number, and which one this is, from 0, is
    asked of the cluster (SLURM, a TPU pod slice, Kubernetes, Open MPI). Where all is None and this
    is not `of_cluster`, this process trains alone. UsageError where they are missing or wrong.
    """
    if not of_cluster and coordinator_address is num_processes is process_id is None:
        yield
        return
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


def process_0_first(function: Callable[[], _Result]) -> _Result:
    """`function()` in the first process and then, when that is done, in all others at once."""
    if is_first():
        result = function()
    wait_for_all()
    return result if is_first() else function()


def broadcast_from_process_0(value: float) -> float:
    """The first process's value, in all: for decisions that must not differ."""
    if jax.process_count() == 1:
        return value
    bits = np.array([value], np.float64).view(np.uint32)  # JAX would round it to float32
    return float(np.asarray(multihost_utils.broadcast_one_to_all(bits)).view(np.float64)[0])


def any_process(flag: bool) -> jax.Array:
    """Whether it is true in any, bool []; computed behind the steps under way, not awaited."""
    flags = jax.make_array_from_process_local_data(
        _sharding(jax.devices(), AXIS), np.full(jax.local_device_count(), flag)
    )
    return jax.jit(jax.numpy.any, out_shardings=_sharding(jax.devices()))(flags)


def local_copy(tree: PyTree) -> PyTree:
    """Arrays that are the same on all devices, on this process's alone."""
    if jax.process_count() == 1:
        return tree
    replicated = _sharding(jax.local_devices())
    return jax.tree.map(lambda x: jax.device_put(x.addressable_data(0), replicated), tree)


def make_predict(
    predict: Callable[[PyTree, PyTree], PyTree],
    *,
    devices: Sequence[jax.Device] | None = None,
    compiler_options: dict[str, Any] | None = None,
) -> Callable[[PyTree, PyTree], PyTree]:
    """Compiles `predict(variables, batch)`, which gives arrays of one entry per image.

    The arrays of a batch, [B,...], are split over the devices, this process's by default: filled up
    to a multiple of them, and cut again.
    """
    devices = list(devices or jax.local_devices())
    split = _sharding(devices, AXIS)
    compiled = jax.jit(
        predict,
        in_shardings=(_sharding(devices), split),
        out_shardings=split,
        compiler_options=compiler_options,
    )

    def padded(variables: PyTree, batch: PyTree) -> PyTree:
        count = len(jax.tree.leaves(batch)[0])
        missing = -count % len(devices)
        fill = lambda x: np.concatenate([x, np.repeat(x[-1:], missing, axis=0)])
        output = compiled(variables, jax.device_put(jax.tree.map(fill, batch), split))
        return jax.tree.map(lambda x: x[:count], output) if missing else output

    return padded


def check_divisible(batch_size: int, accumulate: int, device_count: int | None = None) -> None:
    """UsageError unless a batch splits evenly over devices, all by default, and micro-batches."""
    device_count = device_count or jax.device_count()
    count = device_count * accumulate
    if batch_size % count:
        raise UsageError(
            f"batch_size={batch_size} does not divide into {device_count} devices x "
            f"{accumulate} micro-batches; set config.batch_size to a multiple of {count}"
        )


def micro_batches_for_caches(batch_size: int, size: int, device_count: int | None = None) -> int:
    """How many micro-batches, so that each one's layers stay in a CPU's caches; elsewhere one.

    `batch_size` counts the images per stream over all devices, `size` is their side in pixels.
    """
    share, rest = divmod(batch_size, device_count or jax.device_count())
    if rest or jax.default_backend() != "cpu":
        return 1
    counts = [n for n in range(1, share + 1) if share % n == 0]
    return next((n for n in counts if share // n * size**2 <= _CACHED_PIXELS), share)


def prefetch(batches: Iterator[PyTree], put: Callable[[PyTree], PyTree]) -> Iterator[PyTree]:
    """Places each batch while the one before is being worked on; copies run asynchronously."""
    placed: collections.deque[PyTree] = collections.deque()
    for batch in batches:
        placed.append(put(batch))
        if len(placed) > 1:
            yield placed.popleft()
    yield from placed


def _sharding(devices: Sequence[jax.Device], *axes: str) -> NamedSharding:
    """Over a row of devices: split along the first axis with `AXIS`, else the same on all."""
    mesh = Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec(*axes))
