"""Learning-rate schedules and the optimiser chain."""

import dataclasses
from typing import Any

import jax
import optax

from multimix_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class ScheduleSpec:
    """How the learning rate changes.

    Attributes:
      name: 'constant', 'cosine' (to 0 at the last step) or 'step' (times `decay_rate` each
        `decay_every` steps).
      warmup_steps: linear from 0 before the schedule begins.
      decay_every, decay_rate: for 'step'.
    """

    name: str
    warmup_steps: int = 0
    decay_every: int = 0
    decay_rate: float = 0.1


def make_schedule(spec: ScheduleSpec, *, learning_rate: float, steps: int) -> optax.Schedule:
    """Learning rate by step, of a training of so many steps; `learning_rate` is the highest.

    Raises:
      UsageError: unknown name, or 'step' without `decay_every`.
    """
    length = max(steps - spec.warmup_steps, 1)
    if spec.name == "constant":
        schedule = optax.constant_schedule(learning_rate)
    elif spec.name == "cosine":
        schedule = optax.cosine_decay_schedule(learning_rate, length)
    elif spec.name == "step":
        if spec.decay_every < 1:
            raise UsageError(
                f"schedule.decay_every={spec.decay_every}, but the 'step' schedule needs 1 or more "
                "steps; set config.schedule.decay_every"
            )
        schedule = optax.exponential_decay(
            learning_rate, spec.decay_every, spec.decay_rate, staircase=True
        )
    else:
        raise UsageError(
            f"schedule.name={spec.name!r} is unknown; use 'constant', 'cosine' or 'step' "
            "(config.schedule.name)"
        )
    if spec.warmup_steps:
        warmup = optax.linear_schedule(0.0, learning_rate, spec.warmup_steps)
        schedule = optax.join_schedules([warmup, schedule], [spec.warmup_steps])
    return schedule


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """What learns.

    Attributes:
      name: 'adam', 'adamw' (decoupled weight decay) or 'sgd' (momentum; weight decay added to the
        gradient).
      weight_decay: of kernels; 'adam' takes none.
      momentum: of 'sgd'.
      clip_norm: largest global norm of the gradient, 0 for no clipping.
    """

    name: str
    weight_decay: float = 0.0
    momentum: float = 0.9
    clip_norm: float = 0.0


def _is_matrix(params: Any) -> Any:
    """Biases and scales are not decayed."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def make_optimizer(spec: OptimizerSpec, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Clipping by global norm, then what `spec` names; `schedule` gives the learning rate by step.

    Raises:
      UsageError: unknown name, or weight decay given to 'adam'.
    """
    decay = spec.weight_decay
    if spec.name == "adam":
        if decay:
            raise UsageError(
                f"optimizer.weight_decay={decay}, but adam takes none; set "
                "config.optimizer.name='adamw'"
            )
        update = optax.adam(schedule)
    elif spec.name == "adamw":
        update = optax.adamw(schedule, weight_decay=decay, mask=_is_matrix)
    elif spec.name == "sgd":
        update = optax.chain(
            optax.add_decayed_weights(decay, mask=_is_matrix), optax.sgd(schedule, spec.momentum)
        )
    else:
        raise UsageError(
            f"optimizer.name={spec.name!r} is unknown; use 'adam', 'adamw' or 'sgd' "
            "(config.optimizer.name)"
        )
    if not spec.clip_norm:
        return update
    return optax.chain(optax.clip_by_global_norm(spec.clip_norm), update)
