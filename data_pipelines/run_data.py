"""From the names and budgets in a config to the data of a run."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import data_pipelines
from data_pipelines import splits, streams
from data_pipelines.errors import DataError
from data_pipelines.examples import Examples
from data_pipelines.streams import Batch, Pool
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Head, Split, Stream, Task

# What a training batch holds of each stream. The unlabelled stream's label feeds a monitor of the
# pseudo-labels and no loss.
FIELDS = {
    Stream.SEG_LABELED: ("image", "mask"),
    Stream.SEG_UNLABELED: ("image",),
    Stream.CLS_LABELED: ("image", "label"),
    Stream.CLS_UNLABELED: ("image", "label"),
}


_ANNOTATION = {Task.SEG: "a mask", Task.CLS: "a label"}  # for messages


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
    def label_spec(self) -> LabelSpec:
        """What its labels mean."""
        return self.examples.label_spec

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

    @property
    def affines(self) -> np.ndarray | None:
        """From voxels to mm, float64 [N,4,4], zeros where unknown; None of images."""
        affines = self.examples.affines
        return None if affines is None else affines[self.indices]

    def images(self, indices: np.ndarray) -> np.ndarray | list[np.ndarray]:
        """Some of the images, by their place in `ids`: uint8 [n,S,S,1]; volumes [*sides,1] each."""
        chosen = self.indices[indices]
        images = self.examples.fetch(chosen)["image"]
        if not self.examples.of_volumes:
            return images
        extents = self.examples.extents[chosen]
        return [x[tuple(map(slice, extent))] for x, extent in zip(images, extents, strict=True)]

    def batches(self, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """See `streams.eval_batches`."""
        return streams.eval_batches(self.examples, self.indices, batch_size=batch_size)


@dataclasses.dataclass(frozen=True)
class RunData:
    """The data of a run.

    Attributes:
      pools: to train on.
      validation: to choose the checkpoint and the threshold on, one set for each task.
      tests: to report on.
      label_spec: classes of the set that is classified and masks of the one that is segmented;
        empty where a task is not trained.
      batch_size: images per stream and `Pool.multiple`, over all processes.
      seed: of the order.
      process: which of how many processes this is.
      contents: digests of what folders of one's own hold, by kind of file.
    """

    pools: dict[Stream, Pool]
    validation: list[EvalSet]
    tests: list[EvalSet]
    label_spec: LabelSpec
    batch_size: int
    seed: int
    process: tuple[int, int] = (0, 1)
    contents: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def images_per_step(self) -> int:
        """Of all streams and processes."""
        return self.batch_size * sum(pool.multiple for pool in self.pools.values())

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Of the steps from `start` to `stop` - 1, this process's share; see
        `streams.train_batches`."""
        index, count = self.process
        return streams.train_batches(
            self.pools,
            self.batch_size,
            self.seed,
            start,
            stop,
            process_index=index,
            process_count=count,
        )

    def ids_of_step(self, step: int) -> dict[Stream, list[str]]:
        """Ids of a step's examples, by stream."""
        return streams.ids_of_step(self.pools, self.batch_size, self.seed, step)

    @functools.cached_property
    def baseline(self) -> dict[Head, np.ndarray]:
        """The answer that looks at no image, see `baseline`."""
        return baseline(self)

    @property
    def digest(self) -> str:
        """Changes when the pools, and so the order of the training images, do."""
        listed = json.dumps({name: pool.ids for name, pool in self.pools.items()})
        return hashlib.sha256(listed.encode()).hexdigest()[:16]

    @property
    def ids(self) -> dict[str, Any]:
        """Every id used, by purpose, for the record; both tasks may be validated on one set."""
        tasks = dict.fromkeys(stream.task for stream in self.pools)
        return {
            "train": {name: pool.ids for name, pool in self.pools.items()},
            "validation": {
                f"{task}/{eval_set.name}": eval_set.ids
                for task, eval_set in zip(tasks, self.validation, strict=True)
            },
            "test": {eval_set.name: eval_set.ids for eval_set in self.tests},
        }


def open_config(
    config: Mapping[str, Any],
    stream_names: Sequence[Stream],
    *,
    test_data: Mapping[str, str],
    process: tuple[int, int] = (0, 1),
    one_first: Callable[[Callable[[], Examples]], Examples] = lambda prepare: prepare(),
) -> RunData:
    """The data that a config asks for, see `open_run`.

    Args:
      config: fields of configs/common.py, as nested dictionaries.
      stream_names, test_data, process: see `open_run`.
      one_first: has one process prepare a set, and then the others open it.
    """
    options = data_pipelines.preparation(config) | {"cache_bytes": int(config["cache_gib"] * 2**30)}
    names = (
        *("seg_data", "cls_data", "seg_labels", "cls_labels", "seed", "split_seed"),
        *("batch_size", "class_multiple"),
    )
    return open_run(
        stream_names,
        load=lambda name: one_first(functools.partial(data_pipelines.load, name, **options)),
        test_data=test_data,
        process=process,
        contents=data_pipelines.contents(config),
        **{name: config[name] for name in names},
    )


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
    batch_size: int,
    class_multiple: int = 1,
    process: tuple[int, int] = (0, 1),
    contents: Mapping[str, str] | None = None,
) -> RunData:
    """Opens, and where need be prepares, all data sets of a run and divides them.

    Args:
      stream_names: the streams that the objective asks for.
      load: opens a data set by name.
      seg_data, cls_data: names of the training set of each task.
      test_data: names of the test sets, each with its part: 'train', 'val', 'test' or 'all'.
      seg_labels, cls_labels: how many masks and class labels may be used.
      seed: of the choice of labelled images, and of the order.
      split_seed: of the division; the same for all runs that are compared.
      class_multiple: `Pool.multiple` of the class streams.
      batch_size, process, contents: see `RunData`.

    Raises:
      DataError: data missing or damaged, a budget that cannot be met, a test set that would overlap
        with training.
    """
    load = functools.cache(load)
    pools: dict[Stream, Pool] = {}
    validation: list[EvalSet] = []
    specs = dict.fromkeys(Task, LabelSpec())
    for task, name, budget in ((Task.SEG, seg_data, seg_labels), (Task.CLS, cls_data, cls_labels)):
        if Stream.of(task, labeled=True) not in stream_names:
            continue
        if test_data.get(name) in ("all", Split.TRAIN):
            raise DataError(
                f"test_data has {name}={test_data[name]}, which includes images that are trained "
                "on; use 'test' (config.test_data)"
            )
        examples = load(name)
        parts = _divide(name, examples, split_seed)
        labeled, unlabeled = _pools(task, name, examples, parts[Split.TRAIN], budget, seed)
        multiple = class_multiple if task == Task.CLS else 1
        for is_labeled, indices in ((True, labeled), (False, unlabeled)):
            stream = Stream.of(task, labeled=is_labeled)
            if stream in stream_names:
                fields = (*FIELDS[stream], *(("extent",) if examples.of_volumes else ()))
                pools[stream] = Pool(examples, indices, fields, multiple)
        validation.append(_validation(task, name, examples, parts[Split.VAL]))
        specs[task] = examples.label_spec
    tests = [_test(name, load(name), part, split_seed) for name, part in test_data.items()]
    spec = dataclasses.replace(specs[Task.CLS], mask_names=specs[Task.SEG].mask_names)
    return RunData(
        pools, validation, tests, spec, batch_size, seed, process, contents=contents or {}
    )


def baseline(data: RunData) -> dict[Head, np.ndarray]:
    """What the labels say of any image: mean `mask` [*sides,C], shares of `classes` [K].

    What a model predicts has to be better than this. Masks of volumes are stretched to one size.
    """
    answer = {}
    pool = data.pools.get(Stream.SEG_LABELED)
    if pool is not None:
        masks = pool.examples.fetch(pool.indices)["mask"]
        extents = pool.examples.extents[pool.indices]
        answer[Head.MASK] = np.mean([_stretch(m, e) for m, e in zip(masks, extents)], axis=0)
    pool = data.pools.get(Stream.CLS_LABELED)
    if pool is not None:
        labels = pool.examples.labels[pool.indices]
        if not data.label_spec.multi_label:
            labels = np.eye(len(data.label_spec.class_names))[labels]
        answer[Head.CLASSES] = labels.mean(axis=0)
    return answer


def _stretch(mask: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """The part of a mask within its extent, stretched to the whole array."""
    for axis, (side, inside) in enumerate(zip(mask.shape, extent)):
        mask = mask.take(np.arange(side) * inside // side, axis=axis)
    return mask


def _divide(name: str, examples: Examples, seed: int) -> dict[str, np.ndarray]:
    sizes = splits.split_sizes(name)._asdict()
    return splits.split_examples(examples.ids, examples.groups, examples.splits, **sizes, seed=seed)


def _pools(
    task: Task, name: str, examples: Examples, train: np.ndarray, budget: int | str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The labelled and the unlabelled training images of a task."""
    known = examples.has_mask if task == Task.SEG else examples.has_label
    classes = np.where(known, 0, -1)
    if task == Task.CLS and not examples.label_spec.multi_label:
        classes = examples.labels  # so each is sure of an example among few labels
    chosen = splits.choose_labeled(
        examples.ids[train],
        classes[train],
        budget,
        seed,
        key=f"{task}_labels",
        name=name,
        what=_ANNOTATION[task],
    )
    labeled = train[chosen]
    rest = np.setdiff1d(train, labeled)
    # With every label in use, the labelled images serve as unlabelled ones too.
    return labeled, rest if len(rest) else labeled


def _validation(task: Task, name: str, examples: Examples, indices: np.ndarray) -> EvalSet:
    known = examples.has_mask if task == Task.SEG else examples.has_label
    usable = indices[known[indices]]
    if not len(usable):
        raise DataError(
            f"{name} has no validation image with {_ANNOTATION[task]}; "
            f"label more of its images or choose another config.{task}_data"
        )
    return EvalSet(name, examples, usable)


def _test(name: str, examples: Examples, part: str, seed: int) -> EvalSet:
    parts: dict[str, np.ndarray] = {"all": np.argsort(examples.ids)}
    parts.update(_divide(name, examples, seed))
    if part not in parts:
        raise DataError(
            f"test_data has {name}={part}, which is no part of a data set; use 'train', 'val', "
            "'test' or 'all'"
        )
    if not len(parts[part]):
        raise DataError(f"test_data has {name}={part}, which holds no image; use another part")
    return EvalSet(name, examples, parts[part])
