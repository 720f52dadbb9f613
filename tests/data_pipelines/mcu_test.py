"""Tests of data_pipelines.sets.mcu."""

import numpy as np
import pytest

from data_pipelines.errors import DataError
from tests.official_formats import box, write_image, write_montgomery

QUARTERS = np.kron(np.eye(2, dtype=np.uint8), np.ones((8, 8), np.uint8))


def test_official_layout(load_set, tmp_path):
    write_montgomery(tmp_path / "mcu", ["MCUCXR_0001_0", "MCUCXR_0104_1"], (48, 64))
    examples = load_set("mcu")
    assert examples.ids == ["MCUCXR_0001_0", "MCUCXR_0104_1"]
    assert examples.groups.tolist() == ["0001", "0104"]
    assert examples.splits.tolist() == ["", ""]
    assert examples.labels.tolist() == [-1, -1]
    pixels = examples.fetch(np.array([0, 1]))
    np.testing.assert_array_equal(pixels["mask"][..., 0], [QUARTERS, QUARTERS])
    down = pixels["image"][0, :, 3, 0].astype(int)
    assert (np.diff(down) > 0).all()
    assert down[0] < 12 and down[-1] > 243  # stretched from 12 bits to 8


def test_full_size_has_a_spacing(load_set, tmp_path):
    write_montgomery(tmp_path / "mcu", ["MCUCXR_0001_0"], (4020, 4892))
    # 4020 rows and 4892 columns of 0.0875 mm become 16.
    np.testing.assert_allclose(
        load_set("mcu").spacing, [[4020 * 0.0875 / 16, 4892 * 0.0875 / 16]], rtol=1e-6
    )


def test_converted_layout(load_set, tmp_path):
    write_image(tmp_path / "mcu/images/MCUCXR_0001_0.png")
    write_image(tmp_path / "mcu/masks/MCUCXR_0001_0.png", box(24, 20, slice(0, 12), slice(0, 20)))
    examples = load_set("mcu")
    assert not examples.spacing.any()
    mask = examples.fetch(np.array([0]))["mask"][0, ..., 0]
    np.testing.assert_array_equal(mask, box(16, 16, slice(0, 8), slice(0, 16)) // 255)


def test_images_without_masks(load_set, tmp_path):
    write_image(tmp_path / "mcu/MontgomerySet/CXR_png/MCUCXR_0001_0.png")
    with pytest.raises(DataError, match=r"mcu: no masks in .*National Library of Medicine"):
        load_set("mcu")


def test_one_lung_is_not_enough(load_set, tmp_path):
    write_montgomery(tmp_path / "mcu", ["MCUCXR_0001_0"], (32, 32))
    (tmp_path / "mcu/MontgomerySet/ManualMask/leftMask/MCUCXR_0001_0.png").unlink()
    with pytest.raises(DataError, match=r"MCUCXR_0001_0\.png has no counterpart in 'leftMask'"):
        load_set("mcu")
