"""Tests of multimix_jax.runs.run."""

import nibabel
import numpy as np
import pytest

from multimix_jax.runs.run import write_mask
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
