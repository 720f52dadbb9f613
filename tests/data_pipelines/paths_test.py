"""Tests of data_pipelines.files.paths, and of folders as people have them."""

import os
import re

import numpy as np
import pytest
from pydicom import uid

import launch
from data_pipelines import DataError, audit, files, make_builder
from data_pipelines.files.paths import files_below
from multimix_jax.commands import predict
from tests.official_formats import box, write_dicom, write_image, write_nifti

RAMP = np.arange(24 * 20, dtype=np.uint8).reshape(24, 20)
NO_TEXT = b"\xffa.png".decode(errors="surrogateescape")


@pytest.fixture
def own(tmp_path):
    """own/: an image with a mask and one without."""
    folder = tmp_path / "own"
    write_image(folder / "images" / "i0.png", RAMP)
    write_image(folder / "images" / "i1.png", RAMP.T.copy().reshape(24, 20))
    write_image(folder / "masks" / "i0.png", box(24, 20, slice(4, 9), slice(4, 9)))
    return folder


def audited(folder, name="folder:own"):
    builder = make_builder(name, data_dir=folder.parent, prepared_dir="", size=16)
    return {one.kind: one for one in audit.audit({name: builder})}


def test_links_are_followed_but_not_in_circles(own):
    other = own.parent / "other"
    write_image(other / "o.png", RAMP)
    (own / "images" / "other").symlink_to(other)
    (own / "images" / "self").symlink_to(own / "images")
    (other / "back").symlink_to(own / "images")
    names = [str(path.relative_to(own / "images")) for path in files_below([own / "images"])]
    assert names == ["i0.png", "i1.png", "other/o.png"]
    assert audited(own)["links that lead back"].severity == audit.NOTE


NO_FILES = {
    "to nowhere": lambda path: path.symlink_to("absent"),
    "to itself": lambda path: path.symlink_to(path),
    "pipe": os.mkfifo,
}


@pytest.mark.parametrize("place", ["images", "masks"])
@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_file_is_named_and_the_others_are_read(load_set, own, make, place):
    bad = own / place / "i1.png"
    if place == "images":
        bad.replace(own / place / "i2.png")
    make(bad)
    what = rf"{bad} is (a link that leads to no file|not a file); put the file there, or remove it"
    with pytest.raises(DataError, match=what + r"\. So 1 of \d examples .*multimix-audit"):
        load_set("folder:own")
    assert load_set("folder:own", exclude={"folder:own": {"i1"}}).ids[0] == "i0"
    found = audited(own)["unreadable"]
    assert found.ids == ["i1"] and re.match(what, found.detail)
    with pytest.raises(DataError, match=what):
        files.read_image(bad)


def test_a_file_that_the_system_does_not_give_is_named(load_set, own, monkeypatch):
    """Forbidden, on a disk that fails, or gone since it was listed."""

    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(own / "images" / "i1.png"))

    monkeypatch.setattr("data_pipelines.sets.image_set.read_image", refuse)
    with pytest.raises(DataError, match=r"i1.png cannot be read \(Permission denied\); allow"):
        load_set("folder:own")


def test_a_folder_that_may_not_be_looked_into_is_named(own, monkeypatch):
    def walk(top, onerror, **_):
        onerror(PermissionError(13, "Permission denied", f"{top}/ward"))
        return iter(())

    monkeypatch.setattr(os, "walk", walk)
    with pytest.raises(DataError, match=r"images/ward cannot be looked into \(Permission denied\)"):
        list(files_below([own / "images"]))


def test_names_that_are_no_text_are_read_under_one_that_is(load_set, own):
    for place in ("images", "masks"):
        (own / place / "i0.png").replace(own / place / NO_TEXT)
    examples = load_set("folder:own")
    assert examples.ids == ["%FFa", "i1"] and examples.has_mask.tolist() == [True, False]
    found = audited(own)["names that are no text"]
    assert found.severity == audit.WARNING
    assert found.detail == f"{own}/images/%FFa.png is not named in UTF-8, and is called %FFa"
    assert predict.find_files([own / "images"], launch.image_files)["%FFa"].exists()


def test_files_that_are_passed_over_are_counted_and_named(own, capsys):
    images = own / "images"
    for n in range(4):
        (images / f"n{n}.txt").touch()
    assert audited(own)["files passed over"].severity == audit.NOTE
    (images / "v.nii.gz").touch()
    write_dicom(images / "SR0", RAMP, SOPClassUID=uid.BasicTextSRStorage)
    write_dicom(images / "r.dcm", RAMP, SOPClassUID=uid.EncapsulatedPDFStorage)
    found = audited(own)["files passed over"]
    others = (
        "7 of the files are passed over: 1 .nii.gz (v.nii.gz), 4 .txt (n0.txt, n1.txt, n2.txt, "
        "...), 2 DICOM without an image (SR0, r.dcm)"
    )
    assert found.severity == audit.WARNING and found.detail == f"{images}: {others}"
    assert list(predict.find_files([images], launch.image_files)) == ["i0", "i1"]
    assert capsys.readouterr().err == f"{images}: {others}\n"


def test_dicom_is_found_by_its_content_under_any_name(load_set, own):
    images = own / "images"
    for name in ("PA0/IM0", "x.IMA", "1.2.840.5"):
        write_dicom(images / name, RAMP)
    names = ["1.2.840.5", "PA0/IM0", "i0", "i1", "x.IMA"]
    assert load_set("folder:own").ids == names
    assert sorted(predict.find_files([images], launch.image_files)) == names
    assert "files passed over" not in audited(own)


def test_volumes_of_other_forms_are_named(tmp_path):
    for folder in ("images", "labels"):
        write_nifti(tmp_path / "own" / folder / "a.nii.gz", np.zeros((8, 8, 8), np.float32))
    (tmp_path / "own" / "images" / "b.nrrd").touch()
    found = audited(tmp_path / "own", "folder3d:own")["files passed over"]
    assert found.detail.endswith("images: 1 of the files is passed over: 1 .nrrd (b.nrrd)")


def test_only_what_is_used_is_prepared_anew(load_set, own):
    """A note, what a file manager leaves, a table that is saved again."""
    build = lambda: make_builder("folder:own", data_dir=own.parent, prepared_dir="", size=16)
    table = own / "labels.csv"
    table.write_text("image,label\ni0,ill\ni1,well\n")
    before = build().fingerprint()
    for place in ("images", "masks", "."):
        (own / place / "Thumbs.db").write_bytes(b"x")
        (own / place / "note.txt").touch()
    table.write_bytes(b"\xef\xbb\xbfimage;label\r\ni1;well\r\ni0;ill\r\n")
    assert build().fingerprint() == before
    table.write_text("image,label\ni0,well\ni1,ill\n")
    assert build().fingerprint() != before
    write_dicom(own / "images" / "IM0", RAMP)
    relabelled = build().fingerprint()
    write_dicom(own / "images" / "IM0", RAMP.T)
    assert len({before, relabelled, build().fingerprint()}) == 3


def test_a_pipe_that_is_called_dicom_is_not_waited_for(own):
    os.mkfifo(own / "images" / "i2.dcm")
    os.mkfifo(own / "images" / "IM0")
    found = audited(own)
    assert found["unreadable"].ids == ["i2"]
    assert found["files passed over"].detail.endswith(": 1 without suffix (IM0)")
