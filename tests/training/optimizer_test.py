"""Tests of multimix_jax.training.optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from multimix_jax.training.optimizer import (
    OptimizerSpec,
    ScheduleSpec,
    make_optimizer,
    make_schedule,
)

PARAMS = {"kernel": jnp.asarray([[3.0, -2.0]]), "bias": jnp.asarray([5.0])}
GRADIENT = {"kernel": jnp.asarray([[3.0, 0.0]]), "bias": jnp.asarray([-4.0])}
ZERO = jax.tree.map(jnp.zeros_like, PARAMS)


def updates(gradients, learning_rate=0.1, **arguments):
    """What each gradient in turn adds to (kernel, bias), flat."""
    optimizer = make_optimizer(OptimizerSpec(**arguments), optax.constant_schedule(learning_rate))
    state = optimizer.init(PARAMS)
    added = []
    for gradient in gradients:
        update, state = optimizer.update(gradient, state, PARAMS)
        added.append([*np.ravel(update["kernel"]), *np.ravel(update["bias"])])
    return np.asarray(added)


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        ({"name": "constant"}, {0: 0.2, 50: 0.2, 100: 0.2}),
        ({"name": "cosine"}, {0: 0.2, 50: 0.1, 100: 0.0, 120: 0.0}),
        ({"name": "cosine", "steps": 90}, {30: 0.15, 60: 0.05}),
        ({"name": "step", "decay_every": 10}, {0: 0.2, 9: 0.2, 10: 0.02, 19: 0.02, 20: 0.002}),
        ({"name": "step", "decay_every": 10, "decay_rate": 0.5}, {10: 0.1, 20: 0.05}),
        ({"name": "constant", "warmup_steps": 4}, {0: 0.0, 1: 0.05, 2: 0.1, 4: 0.2, 9: 0.2}),
        ({"name": "cosine", "warmup_steps": 10}, {5: 0.1, 10: 0.2, 40: 0.15, 70: 0.05, 100: 0.0}),
        ({"name": "step", "decay_every": 10, "warmup_steps": 5}, {5: 0.2, 14: 0.2, 15: 0.02}),
    ],
)
def test_schedule_by_hand(arguments, want):
    fields = dict(arguments)
    steps = fields.pop("steps", 100)
    schedule = make_schedule(ScheduleSpec(**fields), learning_rate=0.2, steps=steps)
    got = [float(schedule(step)) for step in want]
    np.testing.assert_allclose(got, list(want.values()), rtol=1e-5, atol=1e-8)


def test_wrong_schedules_are_refused():
    with pytest.raises(ValueError, match="schedule.name='linear' is unknown"):
        make_schedule(ScheduleSpec("linear"), learning_rate=0.1, steps=10)
    with pytest.raises(ValueError, match="decay_every=0, but the 'step' schedule needs 1"):
        make_schedule(ScheduleSpec("step"), learning_rate=0.1, steps=10)


def test_sgd_with_momentum():
    # v = g, then v = .9 v + g.
    got = updates([GRADIENT, GRADIENT], name="sgd", momentum=0.9)
    np.testing.assert_allclose(got, [[-0.3, 0, 0.4], [-0.57, 0, 0.76]], rtol=1e-6)


def test_adam():
    # Bias-corrected, the first step is a learning rate long whatever the gradient.
    got = updates([GRADIENT], name="adam")
    np.testing.assert_allclose(got, [[-0.1, 0, 0.1]], rtol=1e-5)
    second = updates([GRADIENT, jax.tree.map(lambda g: -2 * g, GRADIENT)], name="adam")[1]
    mean = (0.9 * 0.1 * 3 + 0.1 * -6) / (1 - 0.9**2)
    square = (0.999 * 0.001 * 9 + 0.001 * 36) / (1 - 0.999**2)
    np.testing.assert_allclose(second[0], -0.1 * mean / np.sqrt(square), rtol=1e-4)


def test_weight_decay_spares_biases():
    # adamw: lr * decay * weight; sgd adds decay * weight to the gradient.
    for name in ("adamw", "sgd"):
        got = updates([ZERO], name=name, weight_decay=0.01, momentum=0.0)
        np.testing.assert_allclose(got, [[-0.003, 0.002, 0]], rtol=1e-5, err_msg=name)


def test_clipping():
    # The gradient (3, 0, -4) has norm 5.
    got = updates([GRADIENT], name="sgd", momentum=0.0, clip_norm=1.0)
    np.testing.assert_allclose(got, [[-0.06, 0, 0.08]], rtol=1e-6)
    got = updates([GRADIENT], name="sgd", momentum=0.0, clip_norm=10.0)
    np.testing.assert_allclose(got, [[-0.3, 0, 0.4]], rtol=1e-6)


def test_schedule_is_followed():
    optimizer = make_optimizer(OptimizerSpec("sgd", momentum=0.0), lambda count: 1.0 / (1 + count))
    state = optimizer.init(PARAMS)
    for step in range(3):
        update, state = optimizer.update(GRADIENT, state, PARAMS)
        np.testing.assert_allclose(update["bias"], [4 / (1 + step)], rtol=1e-6)


def test_wrong_optimizers_are_refused():
    constant = optax.constant_schedule(0.1)
    with pytest.raises(ValueError, match="optimizer.name='lion' is unknown"):
        make_optimizer(OptimizerSpec("lion"), constant)
    with pytest.raises(ValueError, match="weight_decay=0.1, but adam takes none.*'adamw'"):
        make_optimizer(OptimizerSpec("adam", weight_decay=0.1), constant)
