"""What a run compiles: for runs that differ only in seed, labels or data, one and the same."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from multimix_jax.evaluate import Predict
from multimix_jax.objectives.base import Objective
from multimix_jax.parallel import AXIS, Spread, make_predict, make_spread
from multimix_jax.train_state import TrainState
from multimix_jax.train_step import make_train_step

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Programs:
    """A method and its optimiser, compiled when first used; a seed is an argument of them.

    Attributes:
      objective: the method, with its model.
      optimizer: optax transformation.
      parallel: 'pmap' or 'jit', see `make_spread`.
      ema_decay: of the moving average of the weights, 0 for none.
      accumulate: parts of a batch, see `make_train_step`.
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    parallel: str
    ema_decay: float
    accumulate: int

    @functools.cached_property
    def spread(self) -> Spread:
        """The training step over all devices."""
        step = make_train_step(
            self.objective,
            self.optimizer,
            ema_decay=self.ema_decay,
            accumulate=self.accumulate,
            axis_name=AXIS,
        )
        return make_spread(step, spelling=self.parallel)

    @functools.cached_property
    def predict(self) -> Predict:
        """`Objective.predict` over this process's devices."""
        return make_predict(self.objective.predict)

    @functools.cached_property
    def saliency(self) -> Callable[[PyTree, np.ndarray], jax.Array | None]:
        """`Objective.saliency`."""
        return jax.jit(self.objective.saliency)

    @functools.cached_property
    def views(self) -> Callable[..., dict[str, jax.Array]]:
        """`Objective.views`."""
        return jax.jit(self.objective.views)

    def initial_state(self, seed: int, size: int) -> TrainState:
        """State before the first step, for images of `size` x `size`."""
        variables = self._init(jax.random.key(seed), size)
        keep_average = self.ema_decay > 0
        return TrainState.create(variables, self.optimizer, seed=seed, keep_average=keep_average)

    @functools.cached_property
    def _init(self) -> Callable[[jax.Array, int], PyTree]:
        return jax.jit(self.objective.init, static_argnums=1)
