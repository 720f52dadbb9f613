"""Tests of data_pipelines.sets.jsrt."""

import numpy as np
import pytest

from data_pipelines.errors import DataError
from tests.official_formats import box, write_image, write_jsrt


def test_official_layout(load_set, tmp_path):
    write_jsrt(tmp_path / "jsrt")
    examples = load_set("jsrt")
    assert examples.ids == ["JPCLN001", "JPCNN002"]
    assert examples.groups.tolist() == ["JPCLN001", "JPCNN002"]
    assert examples.splits.tolist() == ["train", "test"]
    assert examples.labels.tolist() == [-1, -1]
    assert examples.label_spec.class_names == ()
    # 2048 pixels of 0.175 mm become 16.
    np.testing.assert_allclose(examples.spacing, np.full((2, 2), 22.4), rtol=1e-6)
    pixels = examples.fetch(np.array([0, 1]))
    assert (pixels["image"][:, :, :7] == 0).all()  # high raw values are dark
    assert (pixels["image"][:, :, 9:] == 255).all()
    both_lungs = np.kron(np.eye(2, dtype=np.uint8), np.ones((8, 8), np.uint8))
    np.testing.assert_array_equal(pixels["mask"][0, ..., 0], both_lungs)


def test_converted_layout(load_set, tmp_path):
    for name in ("JPCLN002", "JPCLN010", "JPCNN093"):
        write_image(tmp_path / "jsrt" / "images" / f"{name}.png")
        mask = box(24, 20, slice(0, 12), slice(0, 20))
        write_image(tmp_path / "jsrt" / "masks" / f"{name}.png", mask)
    examples = load_set("jsrt")
    assert examples.splits.tolist() == ["test", "test", "train"]
    assert examples.has_mask.all()
    assert not examples.spacing.any()
    mask = examples.fetch(np.array([1]))["mask"][0, ..., 0]
    np.testing.assert_array_equal(mask, box(16, 16, slice(0, 8), slice(0, 16)) // 255)


def test_raw_image_of_another_length(load_set, tmp_path):
    write_jsrt(tmp_path / "jsrt", ["JPCLN001"])
    (tmp_path / "jsrt/All247images/JPCLN001.IMG").write_bytes(b"\0" * 1000)
    with pytest.raises(DataError, match=r"JPCLN001\.IMG has 1000 bytes, .*8388608; copy"):
        load_set("jsrt")


def test_mask_of_another_size(load_set, tmp_path):
    write_jsrt(tmp_path / "jsrt", ["JPCLN001"])
    path = tmp_path / "jsrt/scratch/fold1/masks/left lung/JPCLN001.gif"
    write_image(path, box(512, 512, slice(0, 9), slice(0, 9)))
    with pytest.raises(DataError, match=r"JPCLN001\.gif is 512x512 .*must be 1024x1024"):
        load_set("jsrt")


def test_images_without_masks(load_set, tmp_path):
    write_image(tmp_path / "jsrt" / "images" / "JPCLN001.png")
    with pytest.raises(DataError, match=r"jsrt: no masks in .*SCR"):
        load_set("jsrt")


def test_one_lung_is_not_enough(load_set, tmp_path):
    write_jsrt(tmp_path / "jsrt", ["JPCLN001"])
    (tmp_path / "jsrt/scratch/fold1/masks/right lung/JPCLN001.gif").unlink()
    with pytest.raises(DataError, match=r"JPCLN001\.gif has no counterpart in 'right lung'"):
        load_set("jsrt")
