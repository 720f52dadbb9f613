"""What training, evaluation and prediction ask of a method."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax

from multimix_jax.keys import ExampleKeys
from multimix_jax.train_state import TrainState

PyTree = Any
Batch = Mapping[str, Any]
Metrics = dict[str, jax.Array]


class Objective(Protocol):
    """A method: its networks, its loss, and what it predicts."""

    @property
    def streams(self) -> tuple[str, ...]:
        """Streams that a batch must hold: 'seg/labeled' stands for `batch['seg']['labeled']`."""
        ...

    def init(self, key: jax.Array, size: int) -> PyTree:
        """Variables for images of `size` x `size`."""
        ...

    def __call__(
        self, params: PyTree, state: TrainState, batch: Batch, keys: ExampleKeys
    ) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
        """Loss of a batch: (scalar, (terms and other metrics, batch statistics))."""
        ...

    def predict(self, variables: PyTree, images: jax.Array) -> dict[str, jax.Array]:
        """8-bit images [B,H,W,C] -> probabilities `mask` [B,H,W,C'], `classes` [B,K], if any."""
        ...

    def saliency(self, variables: PyTree, images: jax.Array) -> jax.Array | None:
        """8-bit images -> saliency [B,H,W,1], or None without a classifier."""
        ...

    def views(self, batch: Batch, keys: ExampleKeys) -> dict[str, jax.Array]:
        """The 8-bit images that the network sees of `batch`, by name, to look at."""
        ...
