"""The one training step of every method: pure, jittable, and the same in any loop."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from multimix_jax.keys import ExampleKeys
from multimix_jax.state import TrainState

PyTree = Any
Metrics = dict[str, jax.Array]
LossFn = Callable[
    [PyTree, TrainState, PyTree, ExampleKeys], tuple[jax.Array, tuple[Metrics, PyTree]]
]
TrainStep = Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]

_LEARNED = ("params", "opt_state", "batch_stats", "ema_params")


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> TrainStep:
    """Binds a loss and an optimiser into a pure step `(state, batch) -> (state, metrics)`.

    Wrap it in `jax.jit`, or in `parallel.shard_step` with `axis_name=parallel.AXIS`, the mapped
    axis to average over. Metrics are those of `loss_fn` with `loss`, `grad_norm`, `param_norm` and
    `skipped`: 1 where the loss or its gradient was not finite, so that nothing was learned (else
    0). The step counts all the same, so that other images come next.

    Args:
      loss_fn: `(params, state, batch, keys) -> (loss, (metrics, batch_stats))`: a scalar that is a
        mean over the batch, a dictionary of scalars, and the new batch statistics (give
        `state.batch_stats` back where there are none). `keys(name, count)` gives one random key per
        example, a function of (`state.seed`, `state.step`, name, example).
      ema_decay: of the moving average of the weights, where the state keeps one.
      accumulate: micro-batches that the batch is cut into, one after the other, to save memory (on
        CPU also time: `parallel.micro_batches_for_caches`); the gradient is that of the whole.
    """

    def train_step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(state.seed), state.step)
        device = jax.lax.axis_index(axis_name) if axis_name else 0
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

        def part(index: jax.Array | int, batch: PyTree) -> PyTree:
            keys = ExampleKeys(key, device * accumulate + index)
            (loss, (metrics, stats)), grads = grad_fn(state.params, state, batch, keys)
            return grads, {"loss": loss, **metrics}, stats

        if accumulate == 1:
            grads, metrics, stats = part(0, batch)
        else:
            parts = jax.tree.map(
                lambda x: x.reshape(accumulate, len(x) // accumulate, *x.shape[1:]), batch
            )
            shapes = jax.eval_shape(part, 0, jax.tree.map(lambda x: x[0], parts))
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

            def add(total: PyTree, indexed: PyTree) -> tuple[PyTree, None]:
                share = jax.tree.map(lambda x: x / accumulate, part(*indexed))
                return jax.tree.map(jnp.add, total, share), None

            (grads, metrics, stats), _ = jax.lax.scan(add, zeros, (jnp.arange(accumulate), parts))
        if axis_name:
            grads, metrics, stats = jax.lax.pmean((grads, metrics, stats), axis_name)

        metrics["grad_norm"] = optax.tree.norm(grads)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        old = {name: getattr(state, name) for name in _LEARNED}

        def learn(old: PyTree) -> PyTree:
            updates, opt_state = optimizer.update(grads, old["opt_state"], old["params"])
            params = optax.apply_updates(old["params"], updates)
            ema_params = old["ema_params"]
            if ema_params is not None:
                ema_params = optax.incremental_update(params, ema_params, 1.0 - ema_decay)
            return dict(
                params=params, opt_state=opt_state, batch_stats=stats, ema_params=ema_params
            )

        # A choice value by value would keep copies of all the old ones: 4 to 9 % of a step on CPU.
        kept = jax.lax.cond(finite, learn, lambda old: old, old)
        metrics["param_norm"] = optax.tree.norm(kept["params"])
        metrics["skipped"] = 1.0 - finite
        return dataclasses.replace(state, step=state.step + 1, **kept), metrics

    return train_step
