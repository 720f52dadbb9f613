"""Tests of data_pipelines.sets.folder3d."""

import gzip
import struct

import nibabel
import numpy as np
import pytest

from data_pipelines import audit, make_builder
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


def test_volumes_and_labels(load_set, own):
    examples = load_set("folder3d:hearts")
    assert examples.ids == ["a", "b", "deeper/c"]
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
    "label that was resampled": (
        _replace("labels/a.nii.gz", LABEL * np.float32(0.4)),
        r"labels/a\.nii\.gz holds values that are not whole numbers, .*; export it with 0",
    ),
    "label that is not finite": (
        _replace("labels/a.nii.gz", np.where(LABEL, np.nan, 0).astype(np.float32)),
        r"labels/a\.nii\.gz holds values that are not whole numbers",
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


def _header(name, offset, form, *values):
    """Overwrites a part of the header."""

    def overwrite(own):
        opener = gzip.open if name.endswith(".gz") else open
        with opener(own / name, "rb") as file:
            content = bytearray(file.read())
        struct.pack_into(form, content, offset, *values)
        with opener(own / name, "wb") as file:
            file.write(content)

    return overwrite


DAMAGES |= {
    "more voxels than allowed": (
        _header("images/b.nii", 40, "<8h", 3, 1024, 1024, 512, 1, 1, 1, 1),
        r"b\.nii claims to hold 1024x1024x512 voxels, more than 268435456; crop it",
    ),
    "more than the file can hold": (
        _header("images/b.nii", 40, "<8h", 3, 99, 10, 8, 1, 1, 1, 1),
        r"b\.nii claims to hold 99x10x8 voxels, more than its \d+ bytes can; copy or export",
    ),
    "more than it can have packed": (
        _header("images/a.nii.gz", 40, "<8h", 3, 512, 512, 512, 1, 1, 1, 1),
        r"a\.nii\.gz claims to hold 512x512x512 voxels, more than its \d+ bytes can",
    ),
    "fewer than it claims": (
        _header("images/a.nii.gz", 40, "<8h", 3, 9, 10, 9, 1, 1, 1, 1),
        r"a\.nii\.gz cannot be read as NIfTI \(the file ends early\)",
    ),
    "a side below nothing": (
        _header("images/b.nii", 40, "<8h", 3, 9, -10, 8, 1, 1, 1, 1),
        r"b\.nii claims to hold 9x-10x8 voxels, which cannot be; copy or export",
    ),
    "no voxels, far apart": (
        _header("images/b.nii", 40, "<8h", 5, 32767, 0, 32767, 32767, 32767, 1, 1),
        r"b\.nii claims to hold 32767x0x32767x32767x32767 voxels, more than 268435456",
    ),
    "no voxels": (
        _header("images/b.nii", 40, "<8h", 3, 0, 10, 8, 1, 1, 1, 1),
        r"b\.nii is 0x10x8, but a volume has three axes of at least 8 voxels",
    ),
    "unknown type": (_header("images/b.nii", 70, "<h", 999), r"b\.nii cannot be read as NIfTI"),
    "complex": (_header("images/b.nii", 70, "<hh", 32, 64), r"\(voxels of type complex64\)"),
    "half of a pair": (_header("images/b.nii", 344, "<4s", b"ni1"), r"\(it is no single NIfTI"),
    "far away": (
        _header("images/b.nii", 280, "<f", 1e30),
        r"b\.nii has an affine matrix beyond all measure; export",
    ),
    "scaled beyond numbers": (
        _header("images/a.nii.gz", 112, "<f", 3e38),
        r"a\.nii\.gz holds values that are not finite",
    ),
}


def test_the_other_byte_order_and_version(load_set, own):
    values = VALUES.astype(">i2")
    nibabel.save(nibabel.Nifti2Image(values, VOXELS), own / "images" / "a.nii.gz")
    pair = nibabel.Nifti1Image(values, VOXELS, nibabel.Nifti1Header(endianness=">"))
    nibabel.save(pair, own / "images" / "deeper" / "c.nii.gz")
    pixels = load_set("folder3d:hearts").fetch(np.array([0, 2]))["image"]
    want = (VALUES - VALUES.mean()) / VALUES.std()
    np.testing.assert_allclose(pixels[0, ..., 0], want, atol=2e-3)
    np.testing.assert_array_equal(pixels[0], pixels[1])


@pytest.mark.parametrize("damage", DAMAGES)
def test_faulty_volumes_are_named_and_nothing_is_left(load_set, own, damage):
    spoil, expected = DAMAGES[damage]
    spoil(own)
    with pytest.raises(DataError, match=expected):
        load_set("folder3d:hearts")
    assert not (own.parent / "prepared").exists()


def test_a_volume_of_one_value_becomes_zero(load_set, own):
    write_nifti(own / "images" / "a.nii.gz", np.full((9, 10, 8), 7, np.int16))
    assert not load_set("folder3d:hearts").fetch(np.array([0]))["image"].any()


def test_labels_named_by_an_ending_and_of_several_values(own, tmp_path):
    for name, suffix in (("a", ".nii.gz"), ("b", ".nii.gz")):
        path = own / "labels" / f"{name}{suffix}"
        path.rename(path.with_name(f"{name}_seg{suffix}"))
    write_nifti(own / "labels" / "a_seg.nii.gz", LABEL // 2 + (VALUES > 2000))
    write_nifti(own / "labels" / "b_seg.nii.gz", np.zeros_like(LABEL[:8]))
    builder = make_builder("folder3d:hearts", data_dir=tmp_path, prepared_dir="", size=16)
    by_kind = {one.kind: one for one in audit.audit({"hearts": builder})}
    several = by_kind["several values in a label"]
    assert (several.ids, several.severity) == (["a"], audit.WARNING)
    assert several.detail.endswith("a_seg.nii.gz holds 1, 2, all of which are taken as inside")
    assert by_kind["empty mask"].ids == ["b"]
