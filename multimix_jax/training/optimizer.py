"""Learning-rate schedules and the optimiser chain."""

from typing import Any

import jax
import optax

from multimix_jax.errors import UsageError


def make_schedule(
    *,
    name: str,
    learning_rate: float,
    steps: int,
    warmup_steps: int = 0,
    decay_every: int = 0,
    decay_rate: float = 0.1,
) -> optax.Schedule:
    """Learning rate by step.

    Args:
      name: 'constant', 'cosine' (to 0 at `steps`) or 'step' (times `decay_rate` each `decay_every`
        steps).
      learning_rate: the highest.
      steps: length of training.
      warmup_steps: linear from 0 before the schedule begins.
      decay_every: for 'step', in steps.
      decay_rate: for 'step'.

    Raises:
      UsageError: unknown name, or 'step' without `decay_every`.
    """
    length = max(steps - warmup_steps, 1)
    if name == "constant":
        schedule = optax.constant_schedule(learning_rate)
    elif name == "cosine":
        schedule = optax.cosine_decay_schedule(learning_rate, length)
    elif name == "step":
        if decay_every < 1:
            raise UsageError(
                f"schedule.decay_every={decay_every}, but the 'step' schedule needs 1 or more steps"
                "; set config.schedule.decay_every"
            )
        schedule = optax.exponential_decay(learning_rate, decay_every, decay_rate, staircase=True)
    else:
        raise UsageError(
            f"schedule.name={name!r} is unknown; use 'constant', 'cosine' or 'step' "
            "(config.schedule.name)"
        )
    if warmup_steps:
        warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
        schedule = optax.join_schedules([warmup, schedule], [warmup_steps])
    return schedule


def _is_matrix(params: Any) -> Any:
    """Biases and scales are not decayed."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def make_optimizer(
    schedule: optax.Schedule,
    *,
    name: str,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Clipping by global norm, then 'adam', 'adamw' or 'sgd'.

    Args:
      schedule: learning rate by step.
      name: 'adam', 'adamw' (decoupled weight decay) or 'sgd' (momentum; weight decay added to the
        gradient).
      weight_decay: of kernels; 'adam' takes none.
      momentum: of 'sgd'.
      clip_norm: largest global norm of the gradient, 0 for no clipping.

    Raises:
      UsageError: unknown name, or weight decay given to 'adam'.
    """
    if name == "adam":
        if weight_decay:
            raise UsageError(
                f"optimizer.weight_decay={weight_decay}, but adam takes none; set "
                "config.optimizer.name='adamw'"
            )
        update = optax.adam(schedule)
    elif name == "adamw":
        update = optax.adamw(schedule, weight_decay=weight_decay, mask=_is_matrix)
    elif name == "sgd":
        update = optax.chain(
            optax.add_decayed_weights(weight_decay, mask=_is_matrix), optax.sgd(schedule, momentum)
        )
    else:
        raise UsageError(
            f"optimizer.name={name!r} is unknown; use 'adam', 'adamw' or 'sgd' "
            "(config.optimizer.name)"
        )
    return optax.chain(optax.clip_by_global_norm(clip_norm), update) if clip_norm else update
