"""What a user asks for, typed and checked once; configs/common.py has it in plain values.

Groups such as `DataSpec` have their fields at the top level of the config; only those that
`_SECTIONS` names are sections of it.
"""

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, Self

from flax.core import FrozenDict
from flax.traverse_util import flatten_dict

from multimix_jax.errors import UsageError
from multimix_jax.inference.predictor import PredictionSpec
from multimix_jax.objectives import ObjectiveSpec
from multimix_jax.training.loop import Cadence
from multimix_jax.training.optimizer import OptimizerSpec, ScheduleSpec

Values = Mapping[str, Any]

FREE = {"free": True}  # may differ between two starts of one run
NATURAL, POSITIVE = {"least": 0}, {"least": 1}


@dataclasses.dataclass(frozen=True)
class FolderSpec:
    """Where a folder of one's own lies; '' for the default place."""

    images: str
    masks: str
    labels: str
    mask_values: str  # of the masks; '' where it is found by looking at them


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """Which images, how they are prepared and how many labels may be used."""

    size: int
    fit: str
    data_dir: str = field(metadata=FREE)
    folder: FolderSpec = field(metadata=FREE)
    prepared_dir: str = field(metadata=FREE)
    exclude: str = field(metadata=FREE)
    cache_gib: float = field(metadata=FREE)
    seg_data: str
    cls_data: str
    test_data: str = field(metadata=FREE)
    seg_labels: str
    cls_labels: str
    mirrored: str
    class_multiple: int = field(metadata=POSITIVE)
    split_seed: int

    @property
    def tests(self) -> dict[str, str]:
        """The split of each test set."""
        return parse_tests(self.test_data)


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """See `training.make_train_step`."""

    ema_decay: float
    accumulate: int = field(metadata=NATURAL)


@dataclasses.dataclass(frozen=True)
class TrainingSpec:
    """How weights are found."""

    steps: int = field(metadata=POSITIVE)
    batch_size: int = field(metadata=POSITIVE)
    learning_rate: float
    parallel: str
    step: StepSpec
    schedule: ScheduleSpec
    optimizer: OptimizerSpec


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """A run; each group of fields goes whole to where they act."""

    system: str
    seed: int = field(metadata=NATURAL)
    objective: ObjectiveSpec
    data: DataSpec
    training: TrainingSpec
    cadence: Cadence
    grace_period: float = field(metadata=FREE | NATURAL)
    prediction: PredictionSpec

    @classmethod
    def of_config(cls, config: Values) -> Self:
        """The spec that a config, nested dictionaries, describes; UsageError where a field is
        unknown, missing, of the wrong type or out of its range."""
        spec: Self = _build_whole(cls, config, "")
        if spec.seed >= 2**32:
            raise UsageError(f"seed={spec.seed}, but it must be below 2^32; set --config.seed")
        parse_tests(spec.data.test_data)
        return spec


_SECTIONS = ("folder", "window", "schedule", "optimizer")


def parse_tests(text: str) -> dict[str, str]:
    """'jsrt=test,mcu=all' -> {'jsrt': 'test', 'mcu': 'all'}; UsageError of another form."""
    items = [item.strip().partition("=") for item in text.split(",") if item.strip()]
    for name, _, split in items:
        if not (name and split):
            raise UsageError(
                f"test_data={text!r} is not a list of name=split, such as 'jsrt=test,mcu=all'; set "
                "--config.test_data"
            )
    return {name: split for name, _, split in items}


def free_fields(kind: Any = RunSpec) -> Iterator[str]:
    """Names of the config's fields that may differ between two starts of one run."""
    for entry in dataclasses.fields(kind):
        if entry.metadata.get("free"):
            yield entry.name
        elif dataclasses.is_dataclass(entry.type):
            yield from free_fields(entry.type)


def differences(old: Values, new: Values) -> list[tuple[str, Any, Any]]:
    """The fields in which two configs differ, nested ones with dots, and their values."""
    before, after = flatten_dict(old, sep="."), flatten_dict(new, sep=".")
    values = ((name, before.get(name), after.get(name)) for name in sorted(before | after))
    return [(name, one, other) for name, one, other in values if one != other]


def _build_whole(kind: Any, values: Values, prefix: str) -> Any:
    """An instance of `kind`, of all of `values`."""
    rest = dict(values)
    made = _build(kind, rest, prefix)
    for name in rest:
        raise UsageError(f"config.{prefix}{name} is unknown; see configs/common.py for all fields")
    return made


def _build(kind: Any, values: dict[str, Any], prefix: str) -> Any:
    """An instance of `kind`; takes what it uses out of `values`."""
    arguments: dict[str, Any] = {}
    for entry in dataclasses.fields(kind):
        name, grouped = f"{prefix}{entry.name}", dataclasses.is_dataclass(entry.type)
        if grouped and entry.name not in _SECTIONS:
            arguments[entry.name] = _build(entry.type, values, prefix)
            continue
        if entry.name not in values:
            raise UsageError(f"config.{name} is missing; see configs/common.py for all fields")
        value = _checked(values.pop(entry.name), Mapping if grouped else entry.type, name)
        least = entry.metadata.get("least")
        if least is not None and not least <= value < float("inf"):
            raise UsageError(f"{name}={value}, but it must be {least} or more; set --config.{name}")
        arguments[entry.name] = _build_whole(entry.type, value, f"{name}.") if grouped else value
    return kind(**arguments)


def _checked(value: Any, kind: Any, name: str) -> Any:
    """The value as one of its field's type; a section so that programs can be looked up by it."""
    plain = typing.get_origin(kind) or kind
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if plain is str and isinstance(value, int):  # a number of labels
        return str(value)
    if plain is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        if all(isinstance(entry, int) for entry in value):
            return tuple(value)
    if not isinstance(value, plain) or (plain is not bool and isinstance(value, bool)):
        raise UsageError(
            f"{name}={value!r} is not {_KINDS.get(plain, 'of the right type')}; set --config.{name}"
        )
    if plain is Mapping:
        return FrozenDict({k: tuple(v) if isinstance(v, list) else v for k, v in value.items()})
    return value


_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}
_KINDS |= {tuple: "a list of whole numbers", Mapping: "a section of fields"}
