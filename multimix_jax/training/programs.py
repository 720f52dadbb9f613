"""What a run compiles: for runs that differ only in seed, labels or data, one and the same."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from multimix_jax.errors import UsageError
from multimix_jax.evaluation.evaluate import Predict
from multimix_jax.inference.windows import Windows, make_sliding_window
from multimix_jax.keys import ExampleKeys
from multimix_jax.objectives.base import Objective
from multimix_jax.state import TrainState
from multimix_jax.training import machine
from multimix_jax.training.parallel import AXIS, ShardedStep, make_predict, shard_step
from multimix_jax.training.step import make_train_step

PyTree = Any
_OVER_KEPT = 1.15  # all that a step takes, to what it keeps to go back: 1.11 to 1.14 measured


@dataclasses.dataclass(frozen=True)
class Programs:
    """A method and its optimiser, compiled when first used; a seed is an argument of them.

    Attributes:
      objective: the method, with its model.
      optimizer: optax transformation.
      parallel: 'pmap' or 'jit', see `shard_step`.
      ema_decay: of the moving average of the weights, 0 for none.
      accumulate: parts of a batch, see `make_train_step`.
      windows: to predict larger images and volumes by; None takes each whole.
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    parallel: str
    ema_decay: float
    accumulate: int
    windows: Windows | None = None

    def __post_init__(self) -> None:
        """Raises UsageError where the method needs an average, or cannot use one."""
        if self.objective.uses_average and not self.ema_decay:
            raise UsageError(
                "the method has a teacher, the moving average of the weights, but none is kept; "
                "set config.ema_decay, to 0.99 for instance"
            )
        if self.ema_decay and not self.objective.can_average:
            raise UsageError(
                "batch norm's statistics are not those of averaged weights; set "
                "config.ema_decay=0, or config.model.norm='group' or 'instance'"
            )

    @functools.cached_property
    def spread(self) -> ShardedStep:
        """The training step over all devices."""
        step = make_train_step(
            self.objective,
            self.optimizer,
            ema_decay=self.ema_decay,
            accumulate=self.accumulate,
            axis_name=AXIS,
        )
        return shard_step(step, backend=self.parallel)

    @functools.cached_property
    def predict(self) -> Predict:
        """`Objective.predict` over this process's devices, or window by window on one."""
        if self.windows is None:
            return make_predict(self.objective.predict)
        whole = make_sliding_window(self.objective.predict, self.windows)

        def predict(variables: PyTree, images: np.ndarray) -> dict[str, np.ndarray]:
            found = [whole(variables, image) for image in images]
            return {name: np.stack([answer[name] for answer in found]) for name in found[0]}

        return predict

    @functools.cached_property
    def predicted_shapes(self) -> Callable[..., dict[str, jax.ShapeDtypeStruct]]:
        """Shapes of `Objective.predict`, traced once for the same arguments."""
        return jax.jit(self.objective.predict).eval_shape

    @functools.cached_property
    def saliency(self) -> Callable[[PyTree, np.ndarray], jax.Array | None]:
        """`Objective.saliency`, of few images at once, so on one device."""
        compiled = jax.jit(self.objective.saliency)

        def saliency(variables: PyTree, images: np.ndarray) -> jax.Array | None:
            # Wherever they lay, in training or after it, the program is the same.
            return compiled(jax.device_put(variables, jax.local_devices()[0]), images)

        return saliency

    @functools.cached_property
    def views(self) -> Callable[..., dict[str, jax.Array]]:
        """`Objective.views`, for one figure."""
        return machine.compile_for_once(self.objective.views)

    def initial_state(self, seed: int, size: int) -> TrainState:
        """State before the first step, for images of `size` x `size`."""
        variables = self._init(jax.random.key(seed), size)
        keep_average = self.ema_decay > 0
        return TrainState.create(variables, self.optimizer, seed=seed, keep_average=keep_average)

    def check_memory(self, batch: PyTree, size: int) -> None:
        """Raises UsageError where a step on `batch`, of patches, is too large for a device.

        What is kept on the way forwards, to go back, is most of what a step takes; it is counted
        without computing anything.
        """
        devices = jax.local_device_count()
        shard = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((1, len(x) // devices, *x.shape[1:]), x.dtype), batch
        )
        state = jax.eval_shape(lambda: self.initial_state(0, size))

        def kept(state: TrainState, batch: PyTree) -> PyTree:
            keys = ExampleKeys(jax.random.key(0))
            loss = lambda params: self.objective(params, state, batch, keys)[0]
            return jax.vjp(loss, state.params)[1]

        found = jax.eval_shape(jax.vmap(kept, in_axes=(None, 0), axis_name=AXIS), state, shard)
        needed = _OVER_KEPT * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(found))
        limit = machine.memory_bytes() // (devices if jax.default_backend() == "cpu" else 1)
        if needed > limit:
            *patch, _ = self.objective.input_shape(size)
            share = (limit / needed) ** (1 / len(patch))
            fits = [max(int(side * share) // 16, 1) * 16 for side in patch]
            shown = lambda sides: "x".join(map(str, sides))
            raise UsageError(
                f"patches of {shown(patch)} take about {needed / 2**30:.0f} GiB a step, but there "
                f"are {limit / 2**30:.0f} GiB; {shown(fits)} would fit: set "
                "config.objective.patch and config.window.patch, or a smaller config.batch_size or "
                "config.model.filters"
            )

    @functools.cached_property
    def _init(self) -> Callable[[jax.Array, int], PyTree]:
        return jax.jit(self.objective.init, static_argnums=1)
