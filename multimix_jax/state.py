"""What a run consists of between two steps, and nothing else."""

from typing import Any, Self

import flax
import jax
import jax.numpy as jnp
import optax

PyTree = Any


@flax.struct.dataclass
class TrainState:
    """State of training."""

    step: jax.Array  # updates made so far, int32 scalar
    seed: jax.Array  # of all randomness, uint32; here, so that several seeds share a compiled step
    params: PyTree
    opt_state: optax.OptState
    batch_stats: PyTree  # running statistics of a model that has any, else {}
    ema_params: PyTree | None  # moving average of `params`, or None where it is not kept

    @classmethod
    def create(
        cls,
        variables: PyTree,
        optimizer: optax.GradientTransformation,
        *,
        seed: int = 0,
        keep_average: bool = False,
    ) -> Self:
        """State before the first step, from the variables that `model.init` gave."""
        # Copies, because a step may donate its state: the caller's arrays must outlive that.
        copied = jax.tree.map(jnp.copy, dict(variables))
        params = copied["params"]
        return cls(
            step=jnp.zeros((), jnp.int32),
            seed=jnp.asarray(seed, jnp.uint32),
            params=params,
            opt_state=optimizer.init(params),
            batch_stats=copied.get("batch_stats", {}),
            ema_params=jax.tree.map(jnp.copy, params) if keep_average else None,
        )

    @property
    def eval_variables(self) -> PyTree:
        """Variables to evaluate with: the moving average where there is one."""
        params = self.params if self.ema_params is None else self.ema_params
        return {"params": params, "batch_stats": self.batch_stats}
