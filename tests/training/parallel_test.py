import functools
import os
import re
import subprocess
import sys
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

SPELLINGS = ("pmap", "jit")
OPTIMIZER = optax.adam(1e-3)
OBJECTIVE = tiny.objective(threshold=0.5)


@functools.cache
def three_steps(spelling, devices, accumulate=1):
    """State and metrics after three steps of MultiMix, augmentation and dropout on."""
    step = make_train_step(
        OBJECTIVE, OPTIMIZER, accumulate=accumulate, ema_decay=0.5, axis_name=parallel.AXIS
    )
    spread = parallel.make_spread(step, spelling=spelling, devices=jax.devices()[:devices])
    state = spread.put_state(tiny.train_state(OBJECTIVE, OPTIMIZER, keep_average=True))
    for seed in range(3):
        state, metrics = spread.step(state, spread.put_batch(tiny.batch(8, seed)))
    return jax.device_get((state, metrics))


def linear_spread(spelling, devices=None):
    """A spread of the noisy linear model, and its first state."""
    step = make_train_step(tiny.noisy_loss, OPTIMIZER, axis_name=parallel.AXIS)
    spread = parallel.make_spread(step, spelling=spelling, devices=devices)
    return spread, spread.put_state(tiny.linear_state(OPTIMIZER))


@pytest.mark.parametrize("spread", [("pmap", 1), ("jit", 2, 2)])
def test_as_pmap_on_four_devices(spread):
    want_state, want_metrics = three_steps("pmap", 4)
    state, metrics = three_steps(*spread)
    assert int(state.step) == 3
    for name in ("params", "ema_params"):
        difference = tiny.largest_difference(getattr(state, name), getattr(want_state, name))
        assert difference < 1e-5, name
    for name, value in want_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_state_has_no_device_axis_and_is_donated(spelling):
    spread, state = linear_spread(spelling)
    before = jax.tree.map(jnp.shape, state)
    after, metrics = spread.step(state, spread.put_batch(tiny.LINEAR_BATCH))
    assert jax.tree.map(jnp.shape, after) == before
    assert {value.shape for value in metrics.values()} == {()}
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize(("spelling", "shape"), [("pmap", (4, 2, 3)), ("jit", (8, 3))])
def test_batch_is_split(spelling, shape):
    spread, _ = linear_spread(spelling)
    x = spread.put_batch(tiny.LINEAR_BATCH)["x"]
    assert x.shape == shape
    assert x.sharding.spec == PartitionSpec(parallel.AXIS)
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start)
    assert len({shard.device for shard in shards}) == 4
    for part, shard in enumerate(shards):
        np.testing.assert_array_equal(
            np.reshape(shard.data, (2, 3)), tiny.LINEAR_BATCH["x"][2 * part : 2 * part + 2]
        )


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_compiled_once(spelling, caplog):
    spread, state = linear_spread(spelling)
    with jax.log_compiles():
        state, _ = spread.step(state, spread.put_batch(tiny.LINEAR_BATCH))
        assert "Compiling" in caplog.text
        caplog.clear()
        for _ in range(3):
            state, _ = spread.step(state, spread.put_batch(tiny.LINEAR_BATCH))
    assert caplog.text == ""


def test_devices_meet_once():
    """Gradients and metrics are averaged together, in one message."""
    spread, state = linear_spread("jit")
    program = spread.step.lower(state, spread.put_batch(tiny.LINEAR_BATCH)).compile().as_text()
    assert len(re.findall(r" all-reduce(?:-start)?\(", program)) == 1


def test_unknown_spelling():
    with pytest.raises(ValueError, match="parallel='xmap' is unknown; use 'pmap' or 'jit'"):
        parallel.make_spread(lambda state, batch: (state, {}), spelling="xmap")


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
    assert parallel.parts_for_caches(batch_size, size, devices) == want


def test_one_elsewhere_and_where_the_batch_does_not_divide():
    assert parallel.parts_for_caches(10, 256, 4) == 1
    with mock.patch.object(jax, "default_backend", lambda: "gpu"):
        assert parallel.parts_for_caches(10, 256, 1) == 1


def flags_after(before, version):
    with (
        mock.patch.dict(os.environ, {"XLA_FLAGS": before}),
        mock.patch.object(jax.lib, "__version__", version),
    ):
        parallel.set_xla_flags()
        return os.environ["XLA_FLAGS"]


@pytest.mark.parametrize("version", ["0.10.0", "0.12.0.1"])
def test_added_to_those_of_the_user(version):
    flags = flags_after("--xla_a=1", version)
    assert flags.split()[0] == "--xla_a=1"
    assert flags.split()[1].partition("=")[2] == "LIBRARY_FUSION_TYPE_REDUCE"


@pytest.mark.parametrize("version", ["0.9.2", "0.13.0", "1.0.0"])
def test_versions_that_may_not_know_the_flag(version):
    assert flags_after("--xla_a=1", version) == "--xla_a=1"


def test_the_user_decides():
    flags = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT"
    assert flags_after(flags, "0.10.2") == flags


def test_this_jaxlib_takes_it():
    code = (
        "from multimix_jax.training import parallel; parallel.set_xla_flags(); import jax; "
        "print(jax.numpy.ones(()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "1.0", run.stderr


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
