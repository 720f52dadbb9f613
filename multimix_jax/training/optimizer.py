"""Learning-rate schedules and the optimiser chain."""

import dataclasses

import jax
import optax

from multimix_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class ScheduleSpec:
    """How the learning rate changes."""

    name: str  # 'constant', 'cosine' (to 0 at the last step) or 'step'
    warmup_steps: int = 0  # linear from 0 before the schedule begins
    decay_every: int = 0  # of 'step', in steps
    decay_rate: float = 0.1  # of 'step', the factor


def make_schedule(spec: ScheduleSpec, *, learning_rate: float, steps: int) -> optax.Schedule:
    """Learning rate by step, the highest `learning_rate`; UsageError of fields that do not fit."""
    if spec.name == "constant":
        schedule = optax.constant_schedule(learning_rate)
    elif spec.name == "cosine":
        schedule = optax.cosine_decay_schedule(learning_rate, max(steps - spec.warmup_steps, 1))
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
    """What learns."""

    name: str  # 'adam', 'adamw' (decay decoupled) or 'sgd' (decay added to the gradient)
    weight_decay: float = 0.0  # of kernels, not of biases and scales; 'adam' takes none
    momentum: float = 0.9  # of 'sgd'
    clip_norm: float = 0.0  # largest global norm of the gradient, 0 for no clipping


def make_optimizer(spec: OptimizerSpec, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Clipping, then what `spec` names; UsageError of fields that do not fit."""
    decay = spec.weight_decay
    kernels = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    if spec.name == "adam":
        if decay:
            raise UsageError(
                f"optimizer.weight_decay={decay}, but adam takes none; set "
                "config.optimizer.name='adamw'"
            )
        update = optax.adam(schedule)
    elif spec.name == "adamw":
        update = optax.adamw(schedule, weight_decay=decay, mask=kernels)
    elif spec.name == "sgd":
        update = optax.chain(
            optax.add_decayed_weights(decay, mask=kernels), optax.sgd(schedule, spec.momentum)
        )
    else:
        raise UsageError(
            f"optimizer.name={spec.name!r} is unknown; use 'adam', 'adamw' or 'sgd' "
            "(config.optimizer.name)"
        )
    if not spec.clip_norm:
        return update
    return optax.chain(optax.clip_by_global_norm(spec.clip_norm), update)
