"""Tests of data_pipelines.sets.nihx."""

import logging
import tarfile

import numpy as np
import pytest

from data_pipelines.errors import DataError
from tests.official_formats import NIH_COLUMNS, write_csv, write_image, write_nih


def test_official_layout(load_set, tmp_path, caplog):
    write_nih(tmp_path / "nihx")
    with caplog.at_level(logging.WARNING):
        examples = load_set("nihx")
    assert examples.ids == ["00000001_000", "00000001_001", "00000002_000"]
    assert examples.groups.tolist() == ["1", "1", "2"]
    assert examples.splits.tolist() == ["train", "train", "test"]
    assert examples.label_spec.class_names == ("normal", "abnormal")
    assert examples.labels.tolist() == [1, 0, 0]
    assert "found 3 examples; the complete set has 112120" in caplog.text
    gray, rgba = examples.fetch(np.array([0, 1]))["image"]
    np.testing.assert_array_equal(gray, rgba)


def test_one_folder_without_lists_and_the_renamed_table(load_set, tmp_path):
    write_nih(tmp_path / "nihx")
    (tmp_path / "nihx/Data_Entry_2017.csv").rename(tmp_path / "nihx/Data_Entry_2017_v2020.csv")
    (tmp_path / "nihx/images_001/images").rename(tmp_path / "nihx/images")
    (tmp_path / "nihx/train_val_list.txt").unlink()
    assert load_set("nihx").splits.tolist() == ["", "", "test"]


def test_archives(load_set, tmp_path):
    write_nih(tmp_path / "nihx")
    for number in ("001", "002"):
        folder = tmp_path / f"nihx/images_{number}"
        with tarfile.open(folder.with_suffix(".tar.gz"), "w:gz") as tar:
            tar.add(folder / "images", "images")
        folder.rename(tmp_path / f"unpacked_{number}")
    assert load_set("nihx").labels.tolist() == [1, 0, 0]


def test_image_without_a_row(load_set, tmp_path):
    write_nih(tmp_path / "nihx")
    write_image(tmp_path / "nihx/images_002/images/00000009_000.png")
    match = r"00000009_000\.png has no row in \S*Data_Entry_2017\.csv; add its row"
    with pytest.raises(DataError, match=match):
        load_set("nihx")


def test_table_without_a_column(load_set, tmp_path):
    write_nih(tmp_path / "nihx")
    write_csv(tmp_path / "nihx/Data_Entry_2017.csv", ["Image Index", "Patient ID"], [])
    with pytest.raises(DataError, match=r"2017\.csv has the columns .*; the official table"):
        load_set("nihx")


def test_row_without_findings(load_set, tmp_path):
    write_nih(tmp_path / "nihx")
    row = ("00000001_000.png", "", "0", "1", "58", "M", "PA")
    write_csv(tmp_path / "nihx/Data_Entry_2017.csv", NIH_COLUMNS, [row])
    with pytest.raises(DataError, match=r"2017\.csv: the row of 00000001_000\.png has no Finding"):
        load_set("nihx")


def test_no_table(load_set, tmp_path):
    write_image(tmp_path / "nihx/images/00000001_000.png")
    with pytest.raises(DataError, match=r"nihx: no Data_Entry_2017\*\.csv; .*NIH Clinical Center"):
        load_set("nihx")
