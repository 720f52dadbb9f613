"""Tests of data_pipelines.folder3d."""

import numpy as np
import pytest

from data_pipelines import load
from data_pipelines.errors import DataError
from tests.official_formats import VOXELS, write_nifti

VALUES = np.random.default_rng(0).integers(0, 3000, (9, 10, 8)).astype(np.int16)
LABEL = (VALUES > 1500).astype(np.uint8) * 2


@pytest.fixture
def own(tmp_path):
    """hearts/: three volumes, two of them with labels."""
    folder = tmp_path / "hearts"
    write_nifti(folder / "images" / "a.nii.gz", VALUES)
    write_nifti(folder / "images" / "b.nii", VALUES[:8].astype(np.float32))
    write_nifti(folder / "images" / "deeper" / "c.nii.gz", VALUES[:, :9])
    write_nifti(folder / "labels" / "a.nii.gz", LABEL)
    write_nifti(folder / "labels" / "b.nii.gz", LABEL[:8])
    return folder


def load_own(own):
    prepared = str(own.parent / "prepared")
    return load("folder3d:hearts", data_dir=own.parent, prepared_dir=prepared, size=16)


def test_volumes_and_labels(own):
    examples = load_own(own)
    assert examples.ids.tolist() == ["a", "b", "deeper/c"]
    assert examples.has_mask.tolist() == [True, True, False]
    assert examples.extents.tolist() == [[9, 10, 8], [8, 10, 8], [9, 9, 8]]
    np.testing.assert_allclose(examples.spacing, np.tile([1, 2, 3], (3, 1)), rtol=1e-6)
    np.testing.assert_allclose(examples.affines[1], VOXELS)
    pixels = examples.fetch(np.arange(3))
    want = (VALUES - VALUES.mean()) / VALUES.std()
    np.testing.assert_allclose(pixels["image"][0, ..., 0], want, atol=2e-3)
    np.testing.assert_array_equal(pixels["mask"][0, ..., 0], LABEL > 0)
    assert not pixels["mask"][2].any()


def _replace(name, values, **options):
    return lambda own: write_nifti(own / name, values, **options)


SHIFTED = VOXELS + 5 * np.eye(4, k=3)
DAMAGES = {
    "none": (
        lambda own: [path.unlink() for path in own.rglob("*.nii*")],
        r"hearts: no volumes \(\.nii\.gz, \.nii\) in images/; set --config\.data_dir",
    ),
    "label of another shape": (
        _replace("labels/a.nii.gz", LABEL[1:]),
        r"labels/a\.nii\.gz is 8x10x8 voxels, but .*images/a\.nii\.gz is 9x10x8; export the label",
    ),
    "label elsewhere": (
        _replace("labels/a.nii.gz", LABEL, affine=SHIFTED),
        r"labels/a\.nii\.gz lies elsewhere in space than .*images/a\.nii\.gz",
    ),
    "label alone": (
        _replace("labels/z.nii.gz", LABEL),
        r"labels/z\.nii\.gz is a label without a volume; add images/z\.nii\.gz or remove it",
    ),
    "not finite": (
        _replace("images/a.nii.gz", np.where(VALUES > 2990, np.inf, VALUES).astype(np.float32)),
        r"images/a\.nii\.gz holds values that are not finite; export the volume again",
    ),
    "a series": (
        _replace("images/a.nii.gz", np.stack([VALUES] * 2, -1)),
        r"images/a\.nii\.gz is 9x10x8x2, but a volume has three axes",
    ),
    "no NIfTI": (
        lambda own: (own / "images/b.nii").write_text("I am a heart"),
        r"images/b\.nii cannot be read as NIfTI .*; copy or export the file again",
    ),
    "truncated": (
        lambda own: (own / "images/a.nii.gz").write_bytes(
            (own / "images/a.nii.gz").read_bytes()[:600]
        ),
        r"images/a\.nii\.gz cannot be read as NIfTI .*; copy or export the file again",
    ),
    "two of a name": (
        _replace("images/a.nii", VALUES),
        r"images/a\.nii and .*images/a\.nii\.gz have the same name; rename one",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_faulty_volumes_are_named_and_nothing_is_left(own, damage):
    spoil, expected = DAMAGES[damage]
    spoil(own)
    with pytest.raises(DataError, match=expected):
        load_own(own)
    assert not (own.parent / "prepared").exists()


def test_a_volume_of_one_value_becomes_zero(own):
    write_nifti(own / "images" / "a.nii.gz", np.full((9, 10, 8), 7, np.int16))
    assert not load_own(own).fetch(np.array([0]))["image"].any()
