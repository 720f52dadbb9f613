"""Tests of multimix_jax.runs.run."""

from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from multimix_jax.evaluation.evaluate import Predictions
from multimix_jax.names import Head, Task
from multimix_jax.runs.run import Run, write_mask
from tests.official_formats import VOXELS


@pytest.mark.parametrize("name", ["a.nii.gz", "deeper/a.nii"])
def test_what_was_written_is_read_by_nibabel(tmp_path, name):
    mask = np.random.default_rng(0).random((4, 5, 6, 1)) > 0.5
    write_mask(tmp_path / name, mask, VOXELS)
    image = nibabel.load(tmp_path / name)
    np.testing.assert_array_equal(image.get_fdata(), mask[..., 0])
    np.testing.assert_allclose(image.affine, VOXELS)
    assert image.get_data_dtype() == np.uint8
    assert [path.name for path in (tmp_path / name).parent.iterdir()] == ["a" + name.split("a")[1]]


def test_where_the_place_is_unknown_a_voxel_is_a_millimetre(tmp_path):
    write_mask(tmp_path / "a.nii", np.ones((4, 5, 6, 2), bool), np.zeros((4, 4)))
    image = nibabel.load(tmp_path / "a.nii")
    np.testing.assert_array_equal(image.affine, np.eye(4))
    assert image.shape == (4, 5, 6, 2)


def predicted(right):
    """For ten images of a folder, whose masks and labels are known: all right, or all wrong."""
    truth = np.arange(16)[:, None, None] < np.full((10, 1, 16, 1), 8)
    labels = np.arange(10) % 2
    return Predictions(
        ids=list("abcdefghij"),
        masks={Head.MASK: truth == right},
        truths=truth,
        has_mask=np.ones(10, bool),
        classes=np.eye(2)[labels if right else 1 - labels],
        labels=labels,
        spacing=np.zeros((10, 2)),
    )


@pytest.mark.parametrize(("seg", "cls", "score"), [(True, False, 0.5), (True, True, 1)])
def test_one_folder_for_both_tasks_is_validated_for_each(monkeypatch, seg, cls, score):
    """Masks on its images of the segmentation, classes on those of the classification."""
    sets = {
        task: SimpleNamespace(name="folder", right=right) for task, right in zip(Task, (seg, cls))
    }
    data = SimpleNamespace(validation=sets, label_spec=SimpleNamespace(class_names=("a", "b")))
    kinds = []
    validated = lambda evaluated, step, writer: kinds.append(bool(evaluated.predictions.masks))
    run = Run(None, {}, None, None, data, SimpleNamespace(validated=validated))
    monkeypatch.setattr(Run, "_predict", lambda self, _, eval_set: predicted(eval_set.right))
    got, values = run._validate(None, 1, None)
    assert got == values["score"] == score
    assert values["folder/dice"] == seg and values["folder/auroc"] == cls
    assert kinds == [True, False]
