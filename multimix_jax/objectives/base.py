"""What training, evaluation and prediction ask of a method."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax

from multimix_jax.keys import ExampleKeys
from multimix_jax.names import Stream
from multimix_jax.state import TrainState

PyTree = Any
Batch = Mapping[str, Any]
Metrics = dict[str, jax.Array]


class Objective(Protocol):
    """A method: its networks, its loss, and what it predicts."""

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams that a batch must hold."""
        ...

    @property
    def parts(self) -> tuple[str, ...]:
        """What it consists of, to tell systems apart by."""
        ...

    @property
    def uses_average(self) -> bool:
        """Whether the loss reads the moving average of the weights."""
        ...

    @property
    def can_average(self) -> bool:
        """Whether a moving average of the weights, where one is kept, can be predicted with.

        Not by running statistics of batch norm, which are those of the weights themselves.
        """
        ...

    def input_shape(self, size: int) -> tuple[int, ...]:
        """Of one image as the network sees it, where images are prepared at `size` x `size`."""
        ...

    def init(self, key: jax.Array, size: int) -> PyTree:
        """Variables for images of `size` x `size`."""
        ...

    def __call__(
        self, params: PyTree, state: TrainState, batch: Batch, keys: ExampleKeys
    ) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
        """Loss of a batch: (scalar, (terms and other metrics, batch statistics))."""
        ...

    def predict(
        self, variables: PyTree, images: jax.Array, dropout_keys: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """8-bit images [B,H,W,C] -> probabilities `mask` [B,H,W,C'], `classes` [B,K], if any.

        `dropout_keys` [B], one key for each image, switch dropout on (Gal & Ghahramani 2016).
        Other ways to the mask are called `mask_...`; `distance` is a signed distance map in [-1,1].
        Of volumes, images are patches [B,D,H,W,C] of floats.
        """
        ...

    def saliency(self, variables: PyTree, images: jax.Array) -> jax.Array | None:
        """8-bit images -> saliency [B,H,W,1], or None without a classifier."""
        ...

    def class_logits(self, variables: PyTree, images: jax.Array) -> jax.Array | None:
        """Images of 0..255, floats too -> class logits [B,K], or None without a classifier."""
        ...

    def views(self, batch: Batch, keys: ExampleKeys) -> dict[str, jax.Array]:
        """The 8-bit images that the network sees of `batch`, by name, to look at."""
        ...
