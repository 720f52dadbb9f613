import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from multimix_jax.state import TrainState
from multimix_jax.training.step import make_train_step
from tests import tiny

X, Y = tiny.LINEAR_BATCH["x"], tiny.LINEAR_BATCH["y"]


def test_equals_numpy():
    """Three steps of SGD with momentum, and the moving average."""
    optimizer = optax.sgd(0.1, momentum=0.9)
    step = jax.jit(make_train_step(tiny.linear_loss, optimizer, ema_decay=0.75))
    state = tiny.linear_state(optimizer, keep_average=True)
    w = average = tiny.LINEAR_WEIGHTS
    velocity = np.zeros(3)
    for count in range(3):
        state, metrics = step(state, tiny.LINEAR_BATCH)
        error = X.astype(np.float64) @ w - Y
        gradient = 2 / 8 * X.T.astype(np.float64) @ error
        velocity = 0.9 * velocity + gradient
        w = w - 0.1 * velocity
        average = 0.75 * average + 0.25 * w
        want = {
            "loss": np.mean(error**2),
            "error": np.mean(error),
            "grad_norm": np.linalg.norm(gradient),
            "param_norm": np.linalg.norm(w),
            "skipped": 0,
        }
        assert set(metrics) == set(want)
        for name, value in want.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-5)
        np.testing.assert_allclose(state.ema_params["w"], average, rtol=1e-5)
        assert int(state.step) == count + 1


def test_no_average_unless_kept():
    step = make_train_step(tiny.linear_loss, optax.sgd(0.1), ema_decay=0.9)
    assert step(tiny.linear_state(optax.sgd(0.1)), tiny.LINEAR_BATCH)[0].ema_params is None


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulation_equals_the_whole_batch(accumulate):
    def two_steps(accumulate):
        optimizer = optax.sgd(0.1)
        step = jax.jit(make_train_step(tiny.noisy_loss, optimizer, accumulate=accumulate))
        state, _ = step(tiny.linear_state(optimizer), tiny.LINEAR_BATCH)
        return step(state, tiny.LINEAR_BATCH)

    close = functools.partial(np.testing.assert_allclose, atol=1e-5)
    jax.tree.map(close, two_steps(accumulate), two_steps(1))


def test_draws_follow_from_seed_and_step():
    optimizer = optax.sgd(0.0)
    step = jax.jit(make_train_step(tiny.noisy_loss, optimizer))
    state, other = (tiny.linear_state(optimizer, seed=seed) for seed in (0, 1))
    later, first = step(state, tiny.LINEAR_BATCH)
    losses = [
        first["loss"],
        step(later, tiny.LINEAR_BATCH)[1]["loss"],
        step(other, tiny.LINEAR_BATCH)[1]["loss"],
    ]
    assert len(set(map(float, losses))) == 3
    assert step(state, tiny.LINEAR_BATCH)[1]["loss"] == first["loss"]


def test_traced_once():
    traces = []

    def counted(*arguments):
        traces.append(1)
        return tiny.noisy_loss(*arguments)

    optimizer = optax.adam(0.1)
    step = jax.jit(make_train_step(counted, optimizer, ema_decay=0.9))
    state = tiny.linear_state(optimizer, keep_average=True)
    for _ in range(4):
        state, _ = step(state, tiny.LINEAR_BATCH)
    step(tiny.linear_state(optimizer, seed=1, keep_average=True), tiny.LINEAR_BATCH)
    assert len(traces) == 1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30])
def test_what_is_not_finite_is_not_learned(poison, accumulate, dtype):
    """Nothing but the step moves; the step after it is as if nothing had been."""

    def loss(params, state, batch, keys):
        x, w = batch["x"].astype(dtype), params["w"].astype(dtype)
        error = jnp.einsum("bi,i->b", x, w).astype(jnp.float32) - batch["y"]
        stats = {"mean": 0.9 * state.batch_stats["mean"] + batch["x"].mean()}
        return jnp.square(error).mean(), ({}, stats)

    optimizer = optax.adam(0.1)
    step = jax.jit(make_train_step(loss, optimizer, ema_decay=0.9, accumulate=accumulate))
    state = TrainState.create(
        {"params": {"w": jnp.ones(3)}, "batch_stats": {"mean": jnp.zeros(())}},
        optimizer,
        keep_average=True,
    )
    before, _ = step(state, tiny.LINEAR_BATCH)
    x = X.copy()
    x[5, 1] = poison
    after, metrics = step(before, {"x": x, "y": Y})
    assert metrics["skipped"] == 1
    assert int(after.step) == 2
    tiny.assert_equal(dataclasses.replace(after, step=before.step), before)
    later, metrics = step(after, tiny.LINEAR_BATCH)
    assert metrics["skipped"] == 0
    assert all(np.isfinite(leaf).all() for leaf in tiny.leaves(later))
    assert tiny.largest_difference(later.params, before.params) > 0


def test_a_diverging_rate_stops_at_finite_weights():
    step = jax.jit(make_train_step(tiny.linear_loss, optax.sgd(1e18)))
    state = tiny.linear_state(optax.sgd(1e18))
    for _ in range(6):
        state, metrics = step(state, tiny.LINEAR_BATCH)
    assert metrics["skipped"] == 1
    assert np.isfinite(state.params["w"]).all()


class UserModel(nn.Module):
    """Someone else's network, with running statistics."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        return nn.Dense(1)(x)[:, 0]


def test_batch_statistics():
    model = UserModel()

    def loss_fn(params, state, batch, keys):
        variables = {"params": params, "batch_stats": state.batch_stats}
        output, updated = model.apply(variables, batch["x"], train=True, mutable=["batch_stats"])
        return jnp.square(output - batch["y"]).mean(), ({}, updated["batch_stats"])

    optimizer = optax.adam(0.05)
    variables = model.init(jax.random.key(0), X, train=False)
    state = TrainState.create(variables, optimizer)
    step = jax.jit(make_train_step(loss_fn, optimizer))
    losses = []
    for _ in range(20):
        state, metrics = step(state, tiny.LINEAR_BATCH)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    # Starting from 0 and 1, a tenth of the batch's is taken over each time.
    old = 0.9**20
    stats = state.batch_stats["norm"]
    np.testing.assert_allclose(stats["mean"], (1 - old) * X.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats["var"], old + (1 - old) * X.var(0), rtol=1e-4)
    np.testing.assert_array_equal(
        state.eval_variables["batch_stats"]["norm"]["mean"], stats["mean"]
    )


def test_a_plain_loop_learns():
    objective, optimizer = tiny.objective(threshold=0.5), optax.adam(0.03)
    step = jax.jit(make_train_step(objective, optimizer))
    state, batch = tiny.train_state(objective, optimizer), tiny.batch()
    history = []
    for _ in range(15):
        state, metrics = step(state, batch)
        history.append({name: float(value) for name, value in metrics.items()})
    for name in ("loss", "seg/dice"):
        first, last = (np.mean([m[name] for m in part]) for part in (history[:3], history[-3:]))
        assert last < 0.85 * first, name
    for metrics in history:
        assert {"loss", "grad_norm", "param_norm"} <= set(metrics)
        assert np.isfinite(list(metrics.values())).all()


def test_bfloat16():
    objective = tiny.objective("umtl_s", wires={"dtype": jnp.bfloat16})
    step = jax.jit(make_train_step(objective, optax.sgd(0.1)))
    state, metrics = step(tiny.train_state(objective), tiny.batch())
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"float32"}
    assert {value.dtype.name for value in metrics.values()} == {"float32"}
    assert np.isfinite([float(value) for value in metrics.values()]).all()


def test_lowers_for_every_platform():
    objective, platforms = tiny.objective(), ("cpu", "cuda", "tpu")
    step = jax.jit(make_train_step(objective, optax.sgd(0.1)))
    state = tiny.train_state(objective)
    exported = jax.export.export(step, platforms=platforms)(state, tiny.batch())
    assert exported.platforms == platforms
