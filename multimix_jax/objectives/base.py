"""What training and prediction ask of a method: a network, and a loss."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self

import jax

from multimix_jax.errors import UsageError
from multimix_jax.keys import ExampleKeys
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Component, Head, Stream
from multimix_jax.state import TrainState

AXIS = "batch"  # of the devices, over which batch norm takes its statistics
PyTree = Any
Batch = Mapping[Stream, Mapping[str, Any]]
Metrics = dict[str, jax.Array]


class Network(Protocol):
    """What predicts: one network, or several that belong together."""

    @property
    def has_batch_stats(self) -> bool:
        """Whether it has running statistics of batch norm, which do not fit averaged weights."""
        return False

    @property
    def classifies(self) -> bool:
        return False

    def input_shape(self, size: int) -> tuple[int, ...]:
        """Of one image as the network sees it, where images are prepared at `size` x `size`."""
        ...

    def init(self, key: jax.Array, size: int) -> PyTree:
        """Variables for images of `size` x `size`."""
        ...

    def predict(
        self, variables: PyTree, images: jax.Array, dropout_keys: jax.Array | None = None
    ) -> dict[Head, jax.Array]:
        """8-bit images [B,H,W,C] -> masks [B,H,W,C'] and classes [B,K], whichever it predicts.

        `dropout_keys` [B], one key for each image, switch dropout on (Gal & Ghahramani 2016). Of
        volumes, images are patches [B,D,H,W,C] of floats.
        """
        ...

    def class_logits(self, variables: PyTree, images: jax.Array) -> jax.Array:
        """Images [B,H,W,C] in [-1, 1] -> [B,K]."""
        raise TypeError(f"{type(self).__name__} has no classifier")


@dataclasses.dataclass(frozen=True)
class ObjectiveSpec:
    """What an objective is made of, by the fields of configs/common.py: `model` and `objective` are
    attributes of its network and of its loss."""

    method: str
    dtype: str
    model: Mapping[str, Any]
    objective: Mapping[str, Any]


class Objective(Protocol):
    """A method: its network and its loss. `switches` are the fields of the config, with their
    sections, that switch its components on and off."""

    switches: ClassVar[tuple[str, ...]]

    @classmethod
    def of_config(cls, spec: ObjectiveSpec, labels: LabelSpec) -> Self:
        """The objective with its network, see `objectives.make_objective`."""
        ...

    @property
    def network(self) -> Network: ...

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams that a batch must hold."""
        ...

    @property
    def has(self) -> dict[Component, bool]:
        """Whether it has a component, of those that its kind may have."""
        ...

    @property
    def components(self) -> tuple[Component, ...]:
        return tuple(component for component, there in self.has.items() if there)

    @property
    def uses_average(self) -> bool:
        """Whether the loss reads the moving average of the weights."""
        return False

    def check_batch(self, batch: Batch) -> None:
        """Raises UsageError where a batch is not what this learns from: a stream is missing, axes
        are others, pixels are not 0 to 255, masks or labels hold other values. To be called on the
        first one, since a compiled step knows no values; that looks at shapes by itself."""
        ...

    def __call__(
        self, params: PyTree, state: TrainState, batch: Batch, keys: ExampleKeys
    ) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
        """Loss of a batch: (scalar, (terms and other metrics, batch statistics))."""
        ...

    def views(self, batch: Batch, keys: ExampleKeys) -> dict[str, jax.Array]:
        """The images that the network sees of `batch`, by name, to be shown."""
        ...


def make_checked(kind: Any, section: str, **values: Any) -> Any:
    """An instance of a dataclass; UsageError names a field of the config's `section` that it
    lacks, or a weight below 0."""
    fields = [field.name for field in dataclasses.fields(kind)]
    for name, value in values.items():
        if name.endswith("_weight") and not value >= 0:
            raise UsageError(f"config.{section}.{name}={value}, but a weight is 0 or more")
        if name not in fields:
            raise UsageError(
                f"config.{section}.{name} is unknown to {kind.__name__}; it has "
                f"{', '.join(name for name in fields if name not in ('parent', 'name'))}"
            )
    return kind(**values)
