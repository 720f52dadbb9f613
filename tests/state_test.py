import jax
import jax.numpy as jnp
import numpy as np
import optax

from multimix_jax.state import TrainState

PARAMS = {"w": np.arange(3.0, dtype=np.float32)}
STATS = {"mean": np.ones(2, np.float32)}


def create(variables, **arguments):
    variables = jax.tree.map(jnp.asarray, variables)
    return TrainState.create(variables, optax.sgd(0.1, momentum=0.9), **arguments)


def test_create():
    state = create({"params": PARAMS, "batch_stats": STATS})
    assert (int(state.step), state.step.dtype) == (0, jnp.int32)
    assert create({"params": PARAMS}, seed=7).seed == 7
    np.testing.assert_array_equal(state.params["w"], PARAMS["w"])
    np.testing.assert_array_equal(state.opt_state[0].trace["w"], 0)
    np.testing.assert_array_equal(state.batch_stats["mean"], 1)
    assert state.ema_params is None


def test_average_is_a_copy_of_its_own():
    state = create({"params": PARAMS}, keep_average=True)
    np.testing.assert_array_equal(state.ema_params["w"], PARAMS["w"])
    # Donating one must not take the other along.
    assert (
        state.ema_params["w"].unsafe_buffer_pointer() != state.params["w"].unsafe_buffer_pointer()
    )


def test_eval_variables():
    state = create({"params": PARAMS, "batch_stats": STATS})
    assert state.eval_variables["params"] is state.params
    assert state.eval_variables["batch_stats"] is state.batch_stats
    averaged = create({"params": PARAMS}, keep_average=True)
    assert averaged.eval_variables["params"] is averaged.ema_params
    assert averaged.eval_variables["batch_stats"] == {}


def test_is_a_pytree():
    state = create({"params": PARAMS}, keep_average=True)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, state)
    assert isinstance(doubled, TrainState)
    np.testing.assert_array_equal(doubled.ema_params["w"], 2 * PARAMS["w"])
