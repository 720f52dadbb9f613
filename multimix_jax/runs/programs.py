"""What a run compiles: for runs that differ only in seed, labels or data, one and the same."""

import dataclasses
import functools
from typing import Any

import jax

from multimix_jax.errors import UsageError
from multimix_jax.inference import saliency
from multimix_jax.inference.predictor import Member, PredictionSpec, Predictor
from multimix_jax.labels import LabelSpec
from multimix_jax.objectives import ObjectiveSpec, make_objective
from multimix_jax.runs.spec import TrainingSpec
from multimix_jax.state import TrainState
from multimix_jax.training import machine, make_train_step, optimizer, parallel
from multimix_jax.training.parallel import AXIS, ShardedStep, shard_step

PyTree = Any


class Programs:
    """A method and its optimiser, compiled when first used; a seed is an argument of them."""

    def __init__(
        self,
        objective: ObjectiveSpec,
        size: int,
        training: TrainingSpec,
        prediction: PredictionSpec,
        labels: LabelSpec,
    ) -> None:
        """Of images of `size` x `size`; UsageError says which value is wrong."""
        step, count = training.step, training.batch_size
        accumulate = step.accumulate or parallel.micro_batches_for_caches(count, size)
        parallel.check_divisible(count, accumulate)
        self.step_spec = dataclasses.replace(step, accumulate=accumulate)
        self.backend, self.size = training.parallel, size
        schedule = optimizer.make_schedule(
            training.schedule, learning_rate=training.learning_rate, steps=training.steps
        )
        self.objective = make_objective(objective, labels)
        self.network = network = self.objective.network
        self.optimizer = optimizer.make_optimizer(training.optimizer, schedule)
        self.predictor = Predictor([Member(network, prediction, labels=labels)])
        if self.objective.uses_average and not step.ema_decay:
            raise UsageError(
                "the method has a teacher, the moving average of the weights, but none is kept; "
                "set config.ema_decay, to 0.99 for instance"
            )
        if step.ema_decay and network.has_batch_stats:
            raise UsageError(
                "batch norm's statistics are not those of averaged weights; set "
                "config.ema_decay=0, or config.model.norm='group' or 'instance'"
            )
        self._init = jax.jit(network.init, static_argnums=1)
        self.predicted_shapes = jax.jit(network.predict).eval_shape  # traced once
        # The gradient as the bridge sees it, and the views, for one figure.
        self.saliency = jax.jit(lambda v, x: saliency.make_map("gradient", network, v, x))
        self.views = jax.jit(self.objective.views, compiler_options=machine.quick_options())

    @functools.cached_property
    def sharded_step(self) -> ShardedStep:
        """The training step over all devices."""
        options = dataclasses.asdict(self.step_spec)
        step = make_train_step(self.objective, self.optimizer, axis_name=AXIS, **options)
        return shard_step(step, backend=self.backend)

    def initial_state(self, seed: int) -> TrainState:
        """State before the first step."""
        variables = self._init(jax.random.key(seed), self.size)
        keep_average = self.step_spec.ema_decay > 0
        return TrainState.create(variables, self.optimizer, seed=seed, keep_average=keep_average)


make_programs = functools.lru_cache(maxsize=1)(Programs)  # the runs of a grid share them
