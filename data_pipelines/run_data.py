"""From the names and budgets in a config to the data of a run."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import data_pipelines
from data_pipelines import anatomy, findings, splits
from data_pipelines.errors import DataError, shown
from data_pipelines.examples import Examples
from data_pipelines.findings import Finding
from data_pipelines.streams import TrainingStreams
from multimix_jax.labels import VOID, LabelSpec
from multimix_jax.names import Head, Split, Stream, Task

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunData(TrainingStreams):
    """The data of a run: what it is trained on, and sets to evaluate on.

    Attributes:
      validation: to choose the checkpoint and the threshold on, by task.
      tests: to report on.
      label_spec: classes of the set that is classified and masks of the one that is segmented;
        empty where a task is not trained.
      contents: digests of what folders of one's own hold, by kind of file.
    """

    validation: Mapping[Task, Examples]
    tests: list[Examples]
    label_spec: LabelSpec
    contents: Mapping[str, str]

    @functools.cached_property
    def baseline(self) -> dict[Head, np.ndarray]:
        """What the labels say of any image, and a model has to be better than: the mean mask
        [*sides, C], those of volumes stretched to one size, and the shares of classes [K].
        """
        answer = {}
        if pool := self.pools.get(Stream.SEG_LABELED):
            masks = pool.fetch(np.arange(len(pool)))["mask"]
            stretched = np.stack([_stretch(m, e) for m, e in zip(masks, pool.extents)])
            answer[Head.MASK] = _share(stretched == 1, stretched != VOID)
        if pool := self.pools.get(Stream.CLS_LABELED):
            labels = pool.labels
            if not self.label_spec.multi_label:
                labels = np.eye(len(self.label_spec.class_names))[labels]
            answer[Head.CLASSES] = _share(labels > 0, labels >= 0)
        return answer

    @property
    def source_shapes(self) -> np.ndarray:
        """int [N, dims], sides of the images trained on before they were fitted."""
        return np.concatenate([pool.source_shapes for pool in self.pools.values()])

    @property
    def ids(self) -> dict[str, Any]:
        """Every id used, by purpose, for the record; both tasks may be validated on one set."""
        return {
            "train": {name: pool.ids for name, pool in self.pools.items()},
            "validation": {
                f"{task}/{examples.name}": examples.ids
                for task, examples in self.validation.items()
            },
            "test": {examples.name: examples.ids for examples in self.tests},
        }


def open_run(
    config: Mapping[str, Any],
    stream_names: Sequence[Stream],
    *,
    test_data: Mapping[str, str],
    process: tuple[int, int] = (0, 1),
    one_first: Callable[[Callable[[], Examples]], Examples] = lambda prepare: prepare(),
) -> RunData:
    """Opens, and where need be prepares, all data sets of a run and divides them.

    Args:
      config: fields of configs/common.py, as nested dictionaries.
      stream_names: the streams that the objective asks for.
      test_data: names of the test sets, each with its part: 'train', 'val', 'test' or 'all'.
      process: which of how many processes this is.
      one_first: has one process prepare a set, and then the others open it.

    Raises:
      DataError: data missing or damaged, a budget that cannot be met, a test set that would overlap
        with training.
    """
    contents = data_pipelines.contents(config)  # first, so that what changes meanwhile is noticed
    options = data_pipelines.preparation(config) | {"cache_bytes": int(config["cache_gib"] * 2**30)}
    seed, split_seed = config["seed"], config["split_seed"]

    found: dict[str, Sequence[Finding] | None] = {}

    @functools.cache
    def parts_of(name: str) -> dict[str, Examples]:
        examples = one_first(functools.partial(data_pipelines.load, name, **options))
        found[name] = examples.findings
        return _divide(dataclasses.replace(examples, name=name), split_seed)

    pools: dict[Stream, Examples] = {}
    validation: dict[Task, Examples] = {}
    specs = dict.fromkeys(Task, LabelSpec())
    for task in Task:
        name = config[f"{task}_data"]
        if Stream.of(task, labeled=True) not in stream_names:
            continue
        if test_data.get(name) in ("all", Split.TRAIN):
            raise DataError(
                f"test_data has {name}={test_data[name]}, which includes images that are trained "
                "on; use 'test' (config.test_data)"
            )
        parts = parts_of(name)
        labeled, unlabeled = _pools(task, parts[Split.TRAIN], config[f"{task}_labels"], seed)
        pools[Stream.of(task, labeled=True)] = labeled
        if Stream.of(task, labeled=False) in stream_names:
            pools[Stream.of(task, labeled=False)] = unlabeled
        validation[task] = _validation(task, parts)
        specs[task] = labeled.label_spec
    masks = pools.get(Stream.SEG_LABELED) if config["keep_largest"] < 0 else None
    label_spec = dataclasses.replace(
        specs[Task.CLS],
        mask_names=specs[Task.SEG].mask_names,
        void=specs[Task.SEG].void,
        components=anatomy.count_components(masks) if masks else (),
    )
    label_spec = anatomy.of_body(label_spec, config["mirrored"])
    tests = [_test(name, parts_of(name), part) for name, part in test_data.items()]
    if tests and validation and not any(one.known(t).any() for one in tests for t in validation):
        wanted = " or ".join(splits.ANNOTATION[task] for task in validation)
        raise DataError(
            f"none of the images of test_data={','.join(f'{n}={p}' for n, p in test_data.items())} "
            f"has {wanted}, so there would be no results; label some, or name other sets or parts "
            "(config.test_data)"
        )
    if process[0] == 0:
        _logger.info("%s", findings.summary(found))
        if others := sorted(set(options["exclude"]).difference(found)):
            text = "config.exclude names examples of %s, but this run uses %s"
            _logger.warning(text, shown(", ".join(others)), ", ".join(found))
        for note in anatomy.notes(label_spec):
            _logger.info("%s", note)
    return RunData(
        pools=pools,
        batch_size=config["batch_size"],
        seed=seed,
        class_multiple=config["class_multiple"],
        process=process,
        validation=validation,
        tests=tests,
        label_spec=label_spec,
        contents=contents,
    )


def _share(inside: np.ndarray, known: np.ndarray) -> np.ndarray:
    """How many of the known are inside along the first axis, 0 where nothing is known."""
    return inside.sum(axis=0) / np.maximum(known.sum(axis=0), 1)


def _stretch(mask: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """The part of a mask within its extent, stretched to the whole array."""
    for axis, (side, inside) in enumerate(zip(mask.shape, extent)):
        mask = mask.take(np.arange(side) * inside // side, axis=axis)
    return mask


def _divide(examples: Examples, seed: int) -> dict[str, Examples]:
    """The parts of a set, by name: those of `Split` and 'all', each in the order of the ids."""
    identities = (examples.ids, examples.groups, examples.splits)
    sizes = splits.SIZES.get(examples.name, {})
    answers = np.atleast_2d(examples.labels.T)
    of_classes = [a == value for a in answers for value in np.unique(a[a >= 0])]
    traits = np.stack([examples.has_mask, *of_classes], axis=1)
    indices = splits.split_examples(*identities, seed=seed, traits=traits, **sizes)
    indices["all"] = np.argsort(examples.ids)
    return {part: examples.take(chosen) for part, chosen in indices.items()}


def _pools(task: Task, train: Examples, budget: int | str, seed: int) -> tuple[Examples, Examples]:
    """The labelled and the unlabelled training images of a task."""
    classes = train.labels if task == Task.CLS else np.where(train.has_mask, 0, -1)
    chosen = splits.choose_labeled(train.ids, classes, budget, seed, task=task, name=train.name)
    labeled = train.take(chosen)
    rest = np.setdiff1d(np.arange(len(train)), chosen)
    # With every label in use, the labelled images serve as unlabelled ones too.
    return labeled, train.take(rest) if len(rest) else labeled


def _validation(task: Task, parts: Mapping[str, Examples]) -> Examples:
    val = parts[Split.VAL]
    usable = val.take(np.flatnonzero(val.known(task)))
    if not len(usable):
        what = splits.ANNOTATION[task]
        counts = [
            f"{np.sum(parts[part].known(task))} of {len(parts[part])} in {part}" for part in Split
        ]
        raise DataError(
            f"{val.name} has no validation image with {what}: images with one are "
            f"{', '.join(counts)}; give {what} to images of more patients (two at least, three to "
            f"be tested too), or choose another config.{task}_data"
        )
    return usable


def _test(name: str, parts: Mapping[str, Examples], part: str) -> Examples:
    if part not in parts:
        raise DataError(
            f"test_data has {name}={part}, which is no part of a data set; use 'train', 'val', "
            "'test' or 'all'"
        )
    if not len(parts[part]):
        sizes = ", ".join(f"{len(parts[other])} images in {other}" for other in Split)
        raise DataError(
            f"test_data has {name}={part}, which holds no image: it has {sizes}, by its official "
            f"splits or its column 'split'; give that split to images, or use another part, another"
            " set, or '' for none (config.test_data)"
        )
    if not any(parts[part].known(task).any() for task in Task):
        raise DataError(
            f"test_data has {name}={part}, but none of its {len(parts[part])} images has a mask or "
            "a label to be measured by; label some, use another part, or take it out "
            "(config.test_data)"
        )
    return parts[part]
