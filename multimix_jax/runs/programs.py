"""What a run compiles: for runs that differ only in seed, labels or data, one and the same."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from multimix_jax.errors import UsageError
from multimix_jax.inference import saliency
from multimix_jax.inference.predictor import Member, Predictor
from multimix_jax.keys import ExampleKeys
from multimix_jax.labels import LabelSpec
from multimix_jax.objectives import Objective, make_objective
from multimix_jax.runs.spec import PredictionSpec, TrainingSpec, Values
from multimix_jax.state import TrainState
from multimix_jax.training import machine, make_train_step, optimizer, parallel
from multimix_jax.training.parallel import AXIS, ShardedStep, shard_step

PyTree = Any
_OVER_KEPT = 1.15  # all that a step takes, to what it keeps to go back: 1.11 to 1.14 measured


@dataclasses.dataclass(frozen=True)
class Programs:
    """A method and its optimiser, compiled when first used; a seed is an argument of them.

    Attributes:
      objective: the method, with its network.
      optimizer: optax transformation.
      backend: 'pmap' or 'jit', see `parallel.shard_step`.
      ema_decay: of the moving average of the weights, 0 for none.
      accumulate: micro-batches of a batch, see `make_train_step`.
      predictor: of the network.
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    backend: str
    ema_decay: float
    accumulate: int
    predictor: Predictor

    def __post_init__(self) -> None:
        """Raises UsageError where the method needs an average, or cannot use one."""
        if self.objective.uses_average and not self.ema_decay:
            raise UsageError(
                "the method has a teacher, the moving average of the weights, but none is kept; "
                "set config.ema_decay, to 0.99 for instance"
            )
        if self.ema_decay and self.objective.network.has_batch_stats:
            raise UsageError(
                "batch norm's statistics are not those of averaged weights; set "
                "config.ema_decay=0, or config.model.norm='group' or 'instance'"
            )

    @functools.cached_property
    def sharded_step(self) -> ShardedStep:
        """The training step over all devices."""
        step = make_train_step(
            self.objective,
            self.optimizer,
            ema_decay=self.ema_decay,
            accumulate=self.accumulate,
            axis_name=AXIS,
        )
        return shard_step(step, backend=self.backend)

    @functools.cached_property
    def predicted_shapes(self) -> Callable[..., dict[str, jax.ShapeDtypeStruct]]:
        """Shapes of `Network.predict`, traced once for the same arguments."""
        return jax.jit(self.objective.network.predict).eval_shape

    @functools.cached_property
    def saliency(self) -> Callable[[PyTree, np.ndarray], jax.Array | None]:
        """The gradient as the bridge sees it, of few images at once, so on one device."""
        network = self.objective.network
        compiled = jax.jit(lambda v, images: saliency.make_map("gradient", network, v, images))

        def saliency_of(variables: PyTree, images: np.ndarray) -> jax.Array | None:
            # Wherever they lay, in training or after it, the program is the same.
            return compiled(jax.device_put(variables, jax.local_devices()[0]), images)

        return saliency_of

    @functools.cached_property
    def views(self) -> Callable[..., dict[str, jax.Array]]:
        """`Objective.views`, for one figure."""
        return jax.jit(self.objective.views, compiler_options=machine.quick_options())

    def initial_state(self, seed: int, size: int) -> TrainState:
        """State before the first step, for images of `size` x `size`."""
        variables = self._init(jax.random.key(seed), size)
        keep_average = self.ema_decay > 0
        return TrainState.create(variables, self.optimizer, seed=seed, keep_average=keep_average)

    @functools.cached_property
    def _init(self) -> Callable[[jax.Array, int], PyTree]:
        return jax.jit(self.objective.network.init, static_argnums=1)

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

        def residuals(state: TrainState, batch: PyTree) -> PyTree:
            keys = ExampleKeys(jax.random.key(0))
            loss = lambda params: self.objective(params, state, batch, keys)[0]
            return jax.vjp(loss, state.params)[1]

        shapes = jax.eval_shape(
            jax.vmap(residuals, in_axes=(None, 0), axis_name=AXIS), state, shard
        )
        needed = _OVER_KEPT * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
        limit = machine.memory_bytes() // (devices if jax.default_backend() == "cpu" else 1)
        if needed > limit:
            *patch, _ = self.objective.network.input_shape(size)
            share = (limit / needed) ** (1 / len(patch))
            fits = [max(int(side * share) // 16, 1) * 16 for side in patch]
            sides, smaller = ("x".join(map(str, x)) for x in (patch, fits))
            raise UsageError(
                f"patches of {sides} take about {needed / 2**30:.0f} GiB a step, but there are "
                f"{limit / 2**30:.0f} GiB; {smaller} would fit: set config.objective.patch and "
                "config.window.patch, or a smaller config.batch_size or config.model.filters"
            )


@functools.lru_cache(maxsize=1)  # the runs of a grid share them where they can
def make_programs(
    *,
    method: str,
    model: Values,
    terms: Values,
    size: int,
    training: TrainingSpec,
    prediction: PredictionSpec,
    labels: LabelSpec,
) -> Programs:
    """What a run compiles.

    Args:
      method, model, terms, labels: see `objectives.make_objective`.
      size: side of the images in pixels.
      training: `TrainingSpec.compiled`.
      prediction: how images are predicted.

    Raises:
      UsageError: a value is wrong.
    """
    accumulate = training.accumulate or parallel.micro_batches_for_caches(training.batch_size, size)
    parallel.check_divisible(training.batch_size, accumulate)
    schedule = optimizer.make_schedule(
        learning_rate=training.learning_rate,
        steps=training.steps,
        **dataclasses.asdict(training.schedule),
    )
    objective = make_objective(
        method, model=model, dtype=training.dtype, terms=terms, labels=labels
    )
    return Programs(
        objective=objective,
        optimizer=optimizer.make_optimizer(schedule, **dataclasses.asdict(training.optimizer)),
        backend=training.parallel,
        ema_decay=training.ema_decay,
        accumulate=accumulate,
        predictor=Predictor(
            [Member(objective.network, flips=prediction.flips)],
            windows=prediction.windows,
            keep_largest=prediction.keep_largest,
        ),
    )
