"""Tests of data_pipelines.sets.chex."""

import shutil
import zipfile

import pytest

from data_pipelines.errors import DataError
from tests.official_formats import write_image, write_kermany

EXPECTED = [  # id, group, split, label
    ("test/NORMAL/NORMAL2-IM-0381-0001", "NORMAL/NORMAL2-IM-0381", "test", 0),
    ("test/PNEUMONIA/person12_virus_47", "PNEUMONIA/person12", "test", 1),
    ("train/NORMAL/IM-0115-0001", "NORMAL/IM-0115", "train", 0),
    ("train/NORMAL/IM-0115-0002", "NORMAL/IM-0115", "train", 0),
    ("train/PNEUMONIA/person12_bacteria_46", "PNEUMONIA/person12", "train", 1),
    ("val/PNEUMONIA/person1946_bacteria_4874", "PNEUMONIA/person1946", "val", 1),
]


def listing(examples):
    columns = (examples.groups, examples.splits, examples.labels)
    return list(zip(examples.ids, *(column.tolist() for column in columns), strict=True))


def test_official_layout(load_set, tmp_path):
    write_kermany(tmp_path / "chex")
    examples = load_set("chex")
    assert examples.label_spec.class_names == ("normal", "pneumonia")
    assert listing(examples) == EXPECTED
    assert not examples.has_mask.any()
    assert not examples.spacing.any()


def test_the_folder_itself_may_be_chest_xray(load_set, tmp_path):
    write_kermany(tmp_path)
    (tmp_path / "chest_xray").rename(tmp_path / "chex")
    assert listing(load_set("chex")) == EXPECTED


def test_kaggles_second_copy_does_not_count(load_set, tmp_path):
    write_kermany(tmp_path / "chex")
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "chex" / "chest_xray", copy)
    copy.rename(tmp_path / "chex" / "chest_xray" / "chest_xray")
    assert listing(load_set("chex")) == EXPECTED


def test_archive(load_set, tmp_path):
    write_kermany(tmp_path / "unpacked")
    (tmp_path / "chex").mkdir()
    with zipfile.ZipFile(tmp_path / "chex" / "ChestXRay2017.zip", "w") as zipped:
        for path in (tmp_path / "unpacked").rglob("*"):
            zipped.write(path, path.relative_to(tmp_path / "unpacked"))
    assert listing(load_set("chex")) == EXPECTED


def test_names_of_the_first_release(load_set, tmp_path):
    for name in ("NORMAL/NORMAL-28501-0001", "PNEUMONIA/BACTERIA-7422-0002", "PNEUMONIA/other"):
        write_image(tmp_path / "chex" / "chest_xray" / "train" / f"{name}.jpeg")
    groups = ["NORMAL/NORMAL-28501", "PNEUMONIA/BACTERIA-7422", "PNEUMONIA/other"]
    assert load_set("chex").groups.tolist() == groups


def test_truncated_image_is_named(load_set, tmp_path):
    write_kermany(tmp_path / "chex")
    path = tmp_path / "chex/chest_xray/test/NORMAL/NORMAL2-IM-0381-0001.jpeg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"^\S*IM-0381-0001\.jpeg cannot be read as an image"):
        load_set("chex")


def test_empty_folder(load_set, tmp_path):
    (tmp_path / "chex").mkdir()
    with pytest.raises(DataError, match=r"chex: no images .*10\.17632/rscbjbr9sj"):
        load_set("chex")
