"""Tests of multimix_jax.training.parallel."""

import functools
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from multimix_jax.training import parallel
from multimix_jax.training.step import make_train_step
from tests import tiny

BACKENDS = ("pmap", "jit")
OPTIMIZER = optax.adam(1e-3)
OBJECTIVE = tiny.objective(threshold=0.5)


@functools.cache
def three_steps(backend, devices, accumulate=1):
    """State and metrics after three steps of MultiMix, augmentation and dropout on."""
    step = make_train_step(
        OBJECTIVE, OPTIMIZER, accumulate=accumulate, ema_decay=0.5, axis_name=parallel.AXIS
    )
    sharded = parallel.shard_step(step, backend=backend, devices=jax.devices()[:devices])
    state = sharded.put_state(tiny.train_state(OBJECTIVE, OPTIMIZER, keep_average=True))
    for seed in range(3):
        state, metrics = sharded.step(state, sharded.put_batch(tiny.batch(8, seed)))
    return jax.device_get((state, metrics))


def linear_step(backend, devices=None):
    """The step of the noisy linear model, sharded, and its first state."""
    step = make_train_step(tiny.noisy_loss, OPTIMIZER, axis_name=parallel.AXIS)
    sharded = parallel.shard_step(step, backend=backend, devices=devices)
    return sharded, sharded.put_state(tiny.linear_state(OPTIMIZER))


@pytest.mark.parametrize("arguments", [("pmap", 1), ("jit", 2, 2)])
def test_as_pmap_on_four_devices(arguments):
    want_state, want_metrics = three_steps("pmap", 4)
    state, metrics = three_steps(*arguments)
    assert int(state.step) == 3
    for name in ("params", "ema_params"):
        difference = tiny.largest_difference(getattr(state, name), getattr(want_state, name))
        assert difference < 1e-5, name
    for name, value in want_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_state_has_no_device_axis_and_is_donated(backend):
    sharded, state = linear_step(backend)
    before = jax.tree.map(jnp.shape, state)
    after, metrics = sharded.step(state, sharded.put_batch(tiny.LINEAR_BATCH))
    assert jax.tree.map(jnp.shape, after) == before
    assert {value.shape for value in metrics.values()} == {()}
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize(("backend", "shape"), [("pmap", (4, 2, 3)), ("jit", (8, 3))])
def test_batch_is_split(backend, shape):
    sharded, _ = linear_step(backend)
    x = sharded.put_batch(tiny.LINEAR_BATCH)["x"]
    assert x.shape == shape
    assert x.sharding.spec == PartitionSpec(parallel.AXIS)
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start)
    assert len({shard.device for shard in shards}) == 4
    for part, shard in enumerate(shards):
        np.testing.assert_array_equal(
            np.reshape(shard.data, (2, 3)), tiny.LINEAR_BATCH["x"][2 * part : 2 * part + 2]
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_once(backend, caplog):
    sharded, state = linear_step(backend)
    with jax.log_compiles():
        state, _ = sharded.step(state, sharded.put_batch(tiny.LINEAR_BATCH))
        assert "Compiling" in caplog.text
        caplog.clear()
        for _ in range(3):
            state, _ = sharded.step(state, sharded.put_batch(tiny.LINEAR_BATCH))
    assert caplog.text == ""


def test_devices_meet_once():
    """Gradients and metrics are averaged together, in one message."""
    sharded, state = linear_step("jit")
    program = sharded.step.lower(state, sharded.put_batch(tiny.LINEAR_BATCH)).compile().as_text()
    assert len(re.findall(r" all-reduce(?:-start)?\(", program)) == 1


def test_unknown_backend():
    with pytest.raises(ValueError, match="parallel='xmap' is unknown; use 'pmap' or 'jit'"):
        parallel.shard_step(lambda state, batch: (state, {}), backend="xmap")


@pytest.mark.parametrize("count", [1, 4, 6])
def test_any_number_of_images(count):
    images = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)

    def predict(variables, images):
        assert images.shape[0] % 4 == 0
        return {"mean": variables["scale"] * images.astype(jnp.float32).mean((1, 2, 3))}

    got = parallel.make_predict(predict)({"scale": jnp.float32(2)}, images)
    np.testing.assert_allclose(got["mean"], 2 * images.mean((1, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("arguments", [(8, 1, 4), (8, 2, 4), (10, 1, 1), (4, 1, None)])
def test_divides(arguments):
    parallel.check_divisible(*arguments)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "devices", "multiple"),
    [(10, 1, 4, 4), (4, 2, 4, 8), (10, 3, 1, 3), (6, 1, None, 4)],
)
def test_does_not(batch_size, accumulate, devices, multiple):
    words = f"batch_size={batch_size} .* multiple of {multiple}$"
    with pytest.raises(ValueError, match=words):
        parallel.check_divisible(batch_size, accumulate, devices)


@pytest.mark.parametrize(
    ("batch_size", "size", "devices", "want"),
    [(10, 64, 1, 2), (10, 128, 1, 5), (10, 256, 1, 10), (8, 16, 4, 1), (7, 512, 1, 7)],
)
def test_on_cpu(batch_size, size, devices, want):
    assert parallel.micro_batches_for_caches(batch_size, size, devices) == want


def test_one_elsewhere_and_where_the_batch_does_not_divide():
    assert parallel.micro_batches_for_caches(10, 256, 4) == 1
    with mock.patch.object(jax, "default_backend", lambda: "gpu"):
        assert parallel.micro_batches_for_caches(10, 256, 1) == 1


def test_places_one_ahead_and_loses_none():
    placed = []

    def put(batch):
        placed.append(batch)
        return -batch

    seen = []
    for batch in parallel.prefetch(iter(range(1, 5)), put):
        seen.append(batch)
        assert len(placed) == min(len(seen) + 1, 4)
    assert seen == [-1, -2, -3, -4]
    assert not list(parallel.prefetch(iter([]), put))
