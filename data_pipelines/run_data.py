"""From the names and budgets in a config to the data of a run."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines import splits, streams
from data_pipelines.errors import DataError
from data_pipelines.examples import Examples
from data_pipelines.streams import Pool
from multimix_jax.names import Stream

# What a training batch holds of each stream. The unlabelled stream's label feeds a monitor of the
# pseudo-labels and no loss.
FIELDS = {
    Stream.SEG_LABELED: ("image", "mask"),
    Stream.SEG_UNLABELED: ("image",),
    Stream.CLS_LABELED: ("image", "label"),
    Stream.CLS_UNLABELED: ("image", "label"),
}


@dataclasses.dataclass(frozen=True)
class EvalSet:
    """Part of a data set to evaluate on.

    Attributes:
      name: of the data set.
      examples: the prepared data set.
      indices: which of them, in order.
    """

    name: str
    examples: Examples
    indices: np.ndarray

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.examples.class_names

    @property
    def exclusive(self) -> bool:
        return self.examples.exclusive

    @property
    def mask_names(self) -> tuple[str, ...]:
        return self.examples.mask_names

    @property
    def has_mask(self) -> np.ndarray:
        """bool [N], whether the mask is known."""
        return self.examples.has_mask[self.indices]

    @property
    def ids(self) -> list[str]:
        return self.examples.ids[self.indices].tolist()

    @property
    def spacing(self) -> np.ndarray:
        """float32 [N,dims], mm per pixel along each axis, 0 where unknown."""
        return self.examples.spacing[self.indices]

    def images(self, indices: np.ndarray) -> np.ndarray | list[np.ndarray]:
        """Some of the images, by their place in `ids`: uint8 [n,S,S,1]; volumes [*sides,1] each."""
        chosen = self.indices[indices]
        images = self.examples.fetch(chosen)["image"]
        if not self.examples.of_volumes:
            return images
        extents = self.examples.extents[chosen]
        return [x[tuple(map(slice, extent))] for x, extent in zip(images, extents, strict=True)]

    @property
    def affines(self) -> np.ndarray | None:
        """From voxels to mm, float64 [N,4,4], zeros where unknown; None of images."""
        affines = self.examples.affines
        return None if affines is None else affines[self.indices]

    def batches(self, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """See `streams.eval_batches`."""
        return streams.eval_batches(self.examples, self.indices, batch_size=batch_size)


@dataclasses.dataclass(frozen=True)
class RunData:
    """The data of a run.

    Attributes:
      streams: to train on, by name.
      validation: to choose the checkpoint and the threshold on, one set per task.
      tests: to report on.
      class_names: what the classes are called, in the order of the labels; () without a classifier.
    """

    streams: dict[Stream, Pool]
    validation: list[EvalSet]
    tests: list[EvalSet]
    class_names: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Changes when the pools, and so the order of the training images, do."""
        listed = json.dumps({name: stream.ids for name, stream in self.streams.items()})
        return hashlib.sha256(listed.encode()).hexdigest()[:16]

    @property
    def baseline(self) -> dict[str, np.ndarray]:
        """What the labels say of any image: mean `mask` [*sides,C], shares of `classes` [K].

        What a model says has to be better than this. Masks of volumes are stretched to one size.
        """
        answer = {}
        if "seg/labeled" in self.streams:
            stream = self.streams["seg/labeled"]
            masks = stream.examples.fetch(stream.indices)["mask"]
            extents = stream.examples.extents[stream.indices]
            answer["mask"] = np.mean([_fill(m, e) for m, e in zip(masks, extents)], axis=0)
        if "cls/labeled" in self.streams:
            stream = self.streams["cls/labeled"]
            labels = stream.examples.labels[stream.indices]
            if stream.examples.exclusive:
                labels = np.eye(len(self.class_names))[labels]
            answer["classes"] = labels.mean(axis=0)
        return answer

    @property
    def ids(self) -> dict[str, Any]:
        """Every id used, by purpose, for the record; both tasks may be validated on one set."""
        tasks = dict.fromkeys(name.partition("/")[0] for name in self.streams)
        return {
            "train": {name: stream.ids for name, stream in self.streams.items()},
            "validation": {
                f"{task}/{eval_set.name}": eval_set.ids
                for task, eval_set in zip(tasks, self.validation, strict=True)
            },
            "test": {eval_set.name: eval_set.ids for eval_set in self.tests},
        }


def open_run(
    stream_names: Sequence[Stream],
    *,
    load: Callable[[str], Examples],
    seg_data: str,
    cls_data: str,
    test_data: Mapping[str, str],
    seg_labels: int | str,
    cls_labels: int | str,
    seed: int,
    split_seed: int,
    class_multiple: int = 1,
) -> RunData:
    """Opens, and where need be prepares, all data sets of a run and divides them.

    Args:
      stream_names: the streams that the objective asks for.
      load: opens a data set by name.
      seg_data, cls_data: names of the training set of each task.
      test_data: names of the test sets, each with its part: 'train', 'val', 'test' or 'all'.
      seg_labels, cls_labels: how many masks and class labels may be used.
      seed: of the choice of labelled images.
      split_seed: of the division; the same for all runs that are compared.
      class_multiple: `Pool.multiple` of the class streams.

    Raises:
      DataError: data missing or damaged, a budget that cannot be met, a test set that would overlap
        with training.
    """
    opened: dict[str, Examples] = {}

    def get(name: str) -> Examples:
        if name not in opened:
            opened[name] = load(name)
        return opened[name]

    streams: dict[Stream, Pool] = {}
    validation: list[EvalSet] = []
    class_names: tuple[str, ...] = ()
    for task, name, budget in (("seg", seg_data, seg_labels), ("cls", cls_data, cls_labels)):
        if f"{task}/labeled" not in stream_names:
            continue
        if test_data.get(name) in ("all", "train"):
            raise DataError(
                f"test_data has {name}={test_data[name]}, which includes images that are trained "
                "on; use 'test' (config.test_data)"
            )
        examples = get(name)
        part = _divide(name, examples, split_seed)
        for kind, indices in _pools(task, name, examples, part["train"], budget, seed).items():
            stream = Stream(f"{task}/{kind}")
            if stream in stream_names:
                fields = FIELDS[stream] + (("extent",) if examples.of_volumes else ())
                multiple = class_multiple if task == "cls" else 1
                streams[stream] = Pool(examples, indices, fields, multiple)
        validation.append(_validation(task, name, examples, part["val"]))
        if task == "cls":
            class_names = examples.class_names
    tests = [_test(name, get(name), which, split_seed) for name, which in test_data.items()]
    return RunData(streams, validation, tests, class_names)


def _fill(mask: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """The part of a mask within its extent, stretched to the whole array."""
    for axis, (side, inside) in enumerate(zip(mask.shape, extent)):
        mask = mask.take(np.arange(side) * inside // side, axis=axis)
    return mask


def _divide(name: str, examples: Examples, seed: int) -> dict[str, np.ndarray]:
    sizes = splits.SPLIT_SIZES[name.partition(":")[0]]
    return splits.split_examples(
        examples.ids, examples.groups, examples.splits, **sizes._asdict(), seed=seed
    )


def _pools(
    task: str, name: str, examples: Examples, train: np.ndarray, budget: int | str, seed: int
) -> dict[str, np.ndarray]:
    """The labelled and the unlabelled training images of a task."""
    if isinstance(budget, str) and budget.isdigit():
        budget = int(budget)  # config fields that also take "all" hold text
    # Of independent classes none is sure of an example among few labels.
    classes = examples.labels if examples.exclusive else examples.has_label - 1
    chosen = splits.choose_labeled(
        examples.ids[train],
        classes[train] if task == "cls" else None,
        budget,
        seed,
        key=f"{task}_labels",
        name=name,
        has_mask=examples.has_mask[train],
    )
    labeled = train[chosen]
    rest = np.setdiff1d(train, labeled)
    # With every label in use, the labelled images serve as unlabelled ones too.
    return {"labeled": labeled, "unlabeled": rest if len(rest) else labeled}


def _validation(task: str, name: str, examples: Examples, indices: np.ndarray) -> EvalSet:
    known = examples.has_mask if task == "seg" else examples.has_label
    usable = indices[known[indices]]
    if not len(usable):
        raise DataError(
            f"{name} has no validation image with {'a mask' if task == 'seg' else 'a label'}; "
            f"label more of its images or choose another config.{task}_data"
        )
    return EvalSet(name, examples, usable)


def _test(name: str, examples: Examples, which: str, seed: int) -> EvalSet:
    parts = _divide(name, examples, seed) | {"all": np.argsort(examples.ids)}
    if which not in parts:
        raise DataError(
            f"test_data has {name}={which}, which is no part of a data set; use 'train', 'val', "
            "'test' or 'all'"
        )
    if not len(parts[which]):
        raise DataError(f"test_data has {name}={which}, which holds no image; use another part")
    return EvalSet(name, examples, parts[which])
