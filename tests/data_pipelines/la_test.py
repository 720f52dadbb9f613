"""Tests of data_pipelines.sets.la."""

import h5py
import numpy as np
import pytest

from data_pipelines.errors import DataError
from tests.official_formats import write_h5, write_la

FOLDER = "2018LA_Seg_Training Set"


def test_official_layout(load_set, tmp_path):
    write_la(tmp_path / "la")
    examples = load_set("la")
    assert examples.ids == ["AA", "BB", "CC"]
    assert examples.splits.tolist() == ["train", "train", "test"]
    assert examples.has_mask.all() and examples.affines is not None
    assert examples.extents.tolist() == [[10, 9, 9], [10, 9, 10], [10, 9, 11]]
    assert not examples.spacing.any()
    pixels = examples.fetch(np.array([2, 0]))
    assert pixels["image"].shape == pixels["mask"].shape == (2, 10, 9, 11, 1)
    for row, name in enumerate(("CC", "AA")):
        with h5py.File(tmp_path / "la" / FOLDER / name / "mri_norm2.h5") as file:
            image, label = file["image"][:], file["label"][:]
        depth = image.shape[2]
        np.testing.assert_allclose(pixels["image"][row, :, :, :depth, 0], image, rtol=1e-3)
        np.testing.assert_array_equal(pixels["mask"][row, :, :, :depth, 0], label)
        assert not pixels["image"][row, :, :, depth:].any()


def _write(**arrays):
    return lambda la: write_h5(la / FOLDER / "AA" / "mri_norm2.h5", **arrays)


def _without_label(la):
    with h5py.File(la / FOLDER / "AA" / "mri_norm2.h5", "a") as file:
        del file["label"]


def _truncate(la):
    path = la / FOLDER / "AA" / "mri_norm2.h5"
    path.write_bytes(path.read_bytes()[:500])


NOISE = np.random.default_rng(0).normal(size=(9, 9, 9))
DAMAGES = {
    "empty list": (
        lambda la: (la / "train.list").write_text("\n"),
        r"la/train\.list is empty; it must name a volume on each line",
    ),
    "no list": (lambda la: (la / "test.list").unlink(), r"la: no test\.list; set --config\.data_d"),
    "absent case": (
        lambda la: (la / "train.list").write_text("AA\nZZ\n"),
        r"train\.list names ZZ, but .*ZZ/mri_norm2\.h5 does not exist; add the volume or remove",
    ),
    "twice": (
        lambda la: (la / "test.list").write_text("CC\nAA\n"),
        r"test\.list names AA, which is listed already \(as train\); remove one",
    ),
    "missing key": (_without_label, r"AA/mri_norm2\.h5 has no 'label' \(it has 'image'\); downloa"),
    "truncated": (_truncate, r"AA/mri_norm2\.h5 cannot be read as HDF5 .*; copy or download"),
    "label of another shape": (
        _write(image=NOISE, label=np.ones((9, 9, 8), np.uint8)),
        r"its label is 9x9x8 voxels, but .*AA/mri_norm2\.h5 is 9x9x9; export the label again",
    ),
    "not finite": (
        _write(image=np.where(NOISE > 2, np.nan, NOISE)),
        r"AA/mri_norm2\.h5 holds values that are not finite",
    ),
    "no volume": (_write(image=NOISE[0]), r"AA/mri_norm2\.h5 is 9x9, but a volume has three axes"),
    "too flat": (_write(image=NOISE[:2]), r"AA/mri_norm2\.h5 is 2x9x9, but .* at least 8 voxels"),
}


def _replace(make):
    def replace(la):
        with h5py.File(la / FOLDER / "AA" / "mri_norm2.h5", "a") as file:
            del file["image"]
            make(file)

    return replace


def _virtual(file):
    layout = h5py.VirtualLayout((9, 9, 9), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "image", (9, 9, 9))
    file.create_virtual_dataset("image", layout)


def _outside(file):
    file.create_dataset("image", (9, 9, 9), "f4", external=[("/etc/hostname", 0, 2916)])


def _link(link):
    return _replace(lambda file: file.__setitem__("image", link))


def _claim(*shape, **options):
    return _replace(lambda file: file.create_dataset("image", shape, "f4", **options))


NOT_THERE = r"'image' in .*AA/mri_norm2\.h5 is not an array in that file; download"
NO_NUMBERS = r"'image' in .*AA/mri_norm2\.h5 does not hold numbers; download"
DAMAGES |= {
    "link to another file": (_link(h5py.ExternalLink("other.h5", "image")), NOT_THERE),
    "link": (_link(h5py.SoftLink("/label")), NOT_THERE),
    "virtual": (_replace(_virtual), NOT_THERE),
    "stored outside": (_replace(_outside), NOT_THERE),
    "a group": (_replace(lambda file: file.create_group("image")), NOT_THERE),
    "text": (_replace(lambda file: file.__setitem__("image", "a heart")), NO_NUMBERS),
    "nothing": (_replace(lambda file: file.__setitem__("image", h5py.Empty("f4"))), NO_NUMBERS),
    "a number": (_replace(lambda f: f.__setitem__("image", 1.5)), r"but a volume has three axes"),
    "more voxels than allowed": (
        _claim(2**10, 2**10, 2**9),
        r"claims to hold 1024x1024x512 voxels, more than 268435456; crop",
    ),
    "more than the file can hold": (
        _claim(2**9, 2**9, 2**9, chunks=(8, 8, 8), compression="gzip"),
        r"claims to hold 512x512x512 voxels, more than its \d+ bytes can; copy or export",
    ),
    "list that climbs": (
        lambda la: (la / "train.list").write_text("AA\n../../BB\n"),
        r"train\.list names '\.\./\.\./BB', which is not the name of a folder in .*; remove",
    ),
    "list from the root": (
        lambda la: (la / "train.list").write_text("/etc\n"),
        r"train\.list names '/etc', which is not the name of a folder",
    ),
    "list of an endless name": (
        lambda la: (la / "train.list").write_text("A" * 5000),
        r"train\.list names A+, but .* does not exist; add the volume or remove",
    ),
    "list of bytes": (
        lambda la: (la / "train.list").write_bytes(b"\xe9"),
        r"train\.list cannot be read .*; save it as text in UTF-8",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_faulty_volumes_are_named_and_nothing_is_left(load_set, tmp_path, damage):
    write_la(tmp_path / "la")
    spoil, expected = DAMAGES[damage]
    spoil(tmp_path / "la")
    with pytest.raises(DataError, match=expected):
        load_set("la")
    assert not (tmp_path / "prepared").exists()
