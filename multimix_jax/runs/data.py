"""What a run asks of its data, and whether data and network belong together."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from multimix_jax.errors import UsageError
from multimix_jax.evaluation.evaluate import EvalSet
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Head, Task
from multimix_jax.runs.programs import Programs
from multimix_jax.training.loop import TrainingData

PyTree = Any


class RunData(TrainingData, Protocol):
    """The data of a run; `baseline` is the answer that looks at no image: probabilities of masks
    [*sides,C'], of classes [K]."""

    label_spec: LabelSpec  # of what is trained on
    ids: Mapping[str, Any]  # of the images used, by purpose, as JSON values
    source_shapes: np.ndarray  # int [N,dims], of images trained on before they were fitted
    contents: Mapping[str, str]  # digests of what folders of one's own hold, by kind of file
    validation: Mapping[Task, EvalSet]  # to choose the checkpoint and the calibration on
    tests: Sequence[EvalSet]
    baseline: Mapping[Head, np.ndarray]


def check_belongs(data: RunData, programs: Programs, variables: PyTree) -> None:
    """Raises UsageError where the network, its training set and the test sets disagree."""
    shape = programs.network.input_shape(programs.size)
    sets = (*data.validation.values(), *data.tests)
    for eval_set in sets:
        _check_images(eval_set, shape)
    images: Any = np.zeros((1, *shape))
    if len(shape) == 3:
        images = sets[0].images(np.zeros(1, int))
    predicted = programs.predicted_shapes(variables, images)
    if Head.MASK in predicted:
        for eval_set in sets:
            if eval_set.has_mask.any():
                _check_masks(eval_set, predicted[Head.MASK].shape[-1], data.label_spec)
    if Head.CLASSES in predicted:
        _check_classes(data, predicted[Head.CLASSES].shape[-1])


def _check_images(eval_set: EvalSet, shape: Sequence[int]) -> None:
    kind = "images" if eval_set.affines is None else "volumes"
    wanted = "images" if len(shape) == 3 else "volumes"
    if kind != wanted:
        raise UsageError(
            f"{eval_set.name} holds {kind}, but config.objective.patch is for {wanted}; set that, "
            "or use other data"
        )
    channels = eval_set.images(np.zeros(1, int))[0].shape[-1]
    if channels != shape[-1]:
        raise UsageError(
            f"the model takes images of {shape[-1]} channels, but those of {eval_set.name} have "
            f"{channels}; set config.model.in_channels, or use other data"
        )


def _check_masks(eval_set: EvalSet, channels: int, trained: LabelSpec) -> None:
    names, count = eval_set.label_spec.mask_names, eval_set.label_spec.mask_channels
    if channels != count:
        raise UsageError(
            f"the model predicts {channels} masks, but {eval_set.name} has {count} "
            f"({', '.join(names)}); set config.model.mask_channels, or other data"
        )
    if names and trained.mask_names and names != trained.mask_names:
        raise UsageError(
            f"the model predicts masks of {', '.join(trained.mask_names)}, but {eval_set.name} has "
            f"those of {', '.join(names)}; name the folders of the masks alike, or use other data"
        )


def _check_classes(data: RunData, count: int) -> None:
    names, trained = data.label_spec.class_names, data.validation[Task.CLS]
    if len(names) < (1 if data.label_spec.multi_label else 2):
        raise UsageError(
            f"{trained.name} has {len(names)} classes ({', '.join(names) or 'none'}), "
            "but a classifier needs two or more; add labels, or classes.txt beside them, or choose "
            "a method without a classifier"
        )
    if count != len(names):
        raise UsageError(
            f"the model has {count} classes, but the images have {len(names)} "
            f"({', '.join(names)}); set config.model.num_classes"
        )
    kinds = ("one class", "any number of classes")
    for eval_set in (*data.validation.values(), *data.tests):
        spec = eval_set.label_spec
        if spec.class_names and spec.multi_label != data.label_spec.multi_label:
            raise UsageError(
                f"each image of {eval_set.name} has {kinds[spec.multi_label]}, but those that are "
                f"trained on have {kinds[data.label_spec.multi_label]}; use other data"
            )
    for eval_set in data.tests:
        own = len(eval_set.label_spec.class_names)
        if own not in (0, count):
            raise UsageError(
                f"{eval_set.name} has {own} classes, but the model has {count}; take "
                f"{eval_set.name} out of config.test_data"
            )
