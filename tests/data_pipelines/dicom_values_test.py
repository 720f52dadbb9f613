"""Tests of data_pipelines.files.dicom_values."""

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.sequence import Sequence

from data_pipelines import findings
from data_pipelines.files import dicom
from tests.data_pipelines.dicom_test import DEEP, bare, read
from tests.official_formats import write_dicom


def test_eight_bits_stay_as_they_are(tmp_path):
    values = np.array([[3, 7, 200], [0, 1, 90]], np.uint8)
    image = read(tmp_path, values)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, values)


def test_low_is_bright_in_monochrome1(tmp_path):
    values = np.array([[3, 7, 200]], np.uint8)
    image = read(tmp_path, values, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(image, [[252, 248, 55]])


@pytest.mark.parametrize("values", [DEEP, DEEP.astype(np.int16) - 1024])
def test_deeper_values_are_stretched_where_there_is_no_window(tmp_path, values):
    np.testing.assert_allclose(read(tmp_path, values), DEEP / 4095 * 255, rtol=1e-5)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        # By hand from PS3.3 C.11.2.1.2 and C.11.2.1.3, centre 100 and width 5.
        ("LINEAR", [0, 0, 63.75, 127.5, 191.25, 255, 255]),
        ("LINEAR_EXACT", [0, 25.5, 76.5, 127.5, 178.5, 229.5, 255]),
        ("SIGMOID", 255 / (1 + np.exp(-0.8 * np.array([-3.0, -2, -1, 0, 1, 2, 3])))),
    ],
)
def test_windows(tmp_path, form, expected):
    shift = 0.5 if form == "LINEAR" else 0  # of the centre, as the standard has it
    values = np.array([[97, 98, 99, 100, 101, 102, 103]], np.uint16)
    elements = dict(WindowCenter=[100 + shift, 7], WindowWidth=[5, 9], VOILUTFunction=form)
    np.testing.assert_allclose(read(tmp_path, values, **elements), [expected], rtol=1e-5)


def test_the_narrowest_window_is_a_step(tmp_path):
    image = read(tmp_path, DEEP, WindowCenter=2001, WindowWidth=1)
    np.testing.assert_array_equal(image, np.where(DEEP > 2000.5, 255, 0))


def test_a_window_without_width_is_none(tmp_path):
    np.testing.assert_array_equal(
        read(tmp_path, DEEP, WindowCenter=0, WindowWidth=0), read(tmp_path, DEEP)
    )


def test_slope_and_intercept_come_before_the_window(tmp_path):
    elements = dict(RescaleSlope=2, RescaleIntercept=-1000)
    image = read(tmp_path, DEEP, WindowCenter=1000.5, WindowWidth=2001, **elements)
    np.testing.assert_allclose(image, np.clip((DEEP * 2.0 - 1000) / 2000 * 255, 0, 255), rtol=1e-5)


def test_a_table_of_values_of_interest(tmp_path):
    table = pydicom.Dataset()
    table.LUTDescriptor = [4, 0, 8]
    table.LUTData = [0, 10, 100, 255]
    table["LUTData"].VR = "US"
    image = read(tmp_path, np.array([[0, 1, 2, 9]], np.uint16), VOILUTSequence=Sequence([table]))
    np.testing.assert_array_equal(image, [[0, 10, 100, 255]])


def _notes(tmp_path, values, **elements):
    with findings.collected() as problems:
        image = read(tmp_path, values, **elements)
    return image, {problem.kind for problem in problems}


BODY = np.add.outer(np.arange(40), np.arange(40)).astype(np.int16) * 9 - 300
FULL = dict(rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("value", "elements"),
    [
        (-32768, dict(PixelPaddingValue=-32768)),
        (-32768, dict(PixelPaddingValue=-32768, BitsStored=12, HighBit=11)),
        (-2000, dict(PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1900)),
        (-1950, dict(PixelPaddingValue=-1900, PixelPaddingRangeLimit=-2000)),
        (4000, dict(PixelPaddingValue=4000, WindowCenter=51.5, WindowWidth=703)),
    ],
)
def test_padding_is_black_and_counts_nowhere_else(tmp_path, value, elements, photometric):
    padded = BODY.copy()
    padded[:, :7] = value
    elements |= dict(PhotometricInterpretation=photometric)
    image, kinds = _notes(tmp_path, padded, **elements)
    expected = (BODY - BODY[:, 7:].min()) / np.ptp(BODY[:, 7:]) * 255
    if "WindowCenter" in elements:
        expected = (BODY + 300) / 702 * 255
    expected = 255 - expected if photometric == "MONOCHROME1" else expected
    expected[:, :7] = 0
    np.testing.assert_allclose(image, expected, rtol=1e-4, atol=1e-3)
    assert "padding" in kinds


def test_padding_may_be_written_with_the_other_sign(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.where(BODY < 0, -2000, BODY).astype(np.int16))
    data = pydicom.dcmread(path)
    data.add_new("PixelPaddingValue", "US", 65536 - 2000)
    data.save_as(path)
    expected = np.maximum(BODY - 6, 0) / 396 * 255  # 6 is the least that is no padding
    np.testing.assert_allclose(dicom.read(path)[0], expected, **FULL)


def test_a_picture_of_padding_alone_is_read(tmp_path):
    np.testing.assert_array_equal(read(tmp_path, DEEP * 0, PixelPaddingValue=0), 0)


@pytest.mark.parametrize("hot", [65535, 0])
def test_few_pixels_do_not_take_the_contrast(tmp_path, hot):
    values = (BODY + 30000).astype(np.uint16)
    values[3, 5] = hot
    image, kinds = _notes(tmp_path, values)
    expected = np.clip((BODY + 300) / 702 * 255, 0, 255)
    expected[3, 5] = 255 if hot else 0
    np.testing.assert_allclose(image, expected, atol=4)
    assert "few pixels far from the others" in kinds


def _table(descriptor, data, vr="US"):
    table = pydicom.Dataset()
    table.LUTDescriptor = descriptor
    table.add_new("LUTData", vr, data)
    return Sequence([table])


RISING = np.arange(256) * 16
TABLES = {
    # Descriptor and data, and the largest of what these are then taken for.
    "as it says": ([256, 0, 12], RISING, 4095),
    "deeper than it says": ([256, 0, 8], RISING, 4095),
    "less deep than it says": ([256, 0, 16], RISING, 4095),
    "longer than it says": ([100, 0, 12], RISING, 4095),
    "shorter than it says": ([4096, 0, 12], RISING, 4095),
    "of any length": ([0, 0, 12], RISING, 4095),
    "two in a word": ([256, 0, 8], np.arange(256, dtype=np.uint8).view("<u2"), 255),
}


@pytest.mark.parametrize("case", TABLES)
@pytest.mark.parametrize("vr", ["US", "OW"])
def test_tables_are_read_as_their_data_are(tmp_path, case, vr):
    descriptor, data, highest = TABLES[case]
    words = np.asarray(data, "<u2")
    sequence = _table(descriptor, words.tobytes() if vr == "OW" else words.tolist(), vr)
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    image = read(tmp_path, values, VOILUTSequence=sequence)
    entries = np.arange(256) if highest == 255 else RISING
    np.testing.assert_allclose(image.ravel(), entries / highest * 255, **FULL)


def test_a_table_of_negative_values_is_read_in_either_form(tmp_path):
    values = np.arange(-128, 128, dtype=np.int16).reshape(16, 16)
    for first in (-128, 65536 - 128):
        path = write_dicom(tmp_path / "a.dcm", values, VOILUTSequence=_table([9, 0, 12], [0]))
        data = pydicom.dcmread(path)
        data.VOILUTSequence[0].add_new(
            "LUTDescriptor", "SS" if first < 0 else "US", [256, first, 12]
        )
        data.VOILUTSequence[0].add_new("LUTData", "US", RISING.tolist())
        data.save_as(path)
        np.testing.assert_allclose(dicom.read(path)[0].ravel(), RISING / 4095 * 255, **FULL)


@pytest.mark.parametrize(
    ("kind", "elements"),
    [
        ("window that shows nothing", dict(WindowCenter=60000, WindowWidth=100)),
        ("window that shows nothing", dict(WindowCenter=-60, WindowWidth=10)),
        (
            "table of values of interest that shows nothing",
            dict(VOILUTSequence=_table([4, 9000, 8], [0, 1, 2, 3])),
        ),
        ("", dict(WindowCenter=[], WindowWidth=[])),
        ("", dict(VOILUTSequence=Sequence([]))),
        ("", dict(VOILUTSequence=Sequence([pydicom.Dataset()]))),
        ("", dict(VOILUTSequence=_table([256, 0, 8], []))),
        ("", dict(RescaleSlope=None, RescaleIntercept=None)),
        ("", dict(RescaleSlope=2, RescaleIntercept=None)),
        ("", dict(RescaleSlope=0, RescaleIntercept=-1000)),
        ("", dict(PixelPaddingValue=None)),
        ("", dict(ModalityLUTSequence=_table([4096, 0, 12], list(range(4096))))),
    ],
)
def test_what_says_nothing_is_not_applied(tmp_path, kind, elements):
    image, kinds = _notes(tmp_path, DEEP, **elements)
    np.testing.assert_allclose(image, DEEP / 4095 * 255, **FULL)
    assert kinds == ({kind} if kind else set())


def test_an_unknown_form_of_window_is_linear(tmp_path):
    elements = dict(WindowCenter=2000, WindowWidth=3000)
    image = read(tmp_path, DEEP, VOILUTFunction="SOME_OTHER", **elements)
    np.testing.assert_array_equal(image, read(tmp_path, DEEP, **elements))


@pytest.mark.parametrize("signed", [False, True])
def test_only_the_bits_that_count_are_read(tmp_path, signed):
    values = BODY if signed else (BODY + 300).astype(np.uint16)
    elements = dict(BitsStored=12, WindowCenter=200, WindowWidth=400)
    expected = read(tmp_path, values, HighBit=11, **elements)
    image, kinds = _notes(tmp_path, values & 0x0FFF | 0x5000, HighBit=11, **elements)
    np.testing.assert_array_equal(image, expected)
    assert kinds == {"unused bits"}
    # At the upper end, as of old; or not there, though the header says so.
    for stored in (values << 4, values):
        image, kinds = _notes(tmp_path, stored, HighBit=15, **elements)
        np.testing.assert_array_equal(image, expected)
        assert not kinds


ABSENT = "SamplesPerPixel PixelRepresentation BitsStored HighBit BitsAllocated SOPClassUID".split()


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize("absent", [*([name] for name in ABSENT), ABSENT])
def test_what_is_beyond_doubt_may_be_absent(tmp_path, absent, dtype, implicit):
    path = write_dicom(tmp_path / "a.dcm", BODY.astype(dtype) + (500 if dtype == np.uint16 else 0))
    data = pydicom.dcmread(path)
    for name in absent:
        delattr(data, name)
    if implicit:
        data.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
    data.save_as(path, implicit_vr=implicit)
    if absent == ABSENT:
        bare(path)
    np.testing.assert_allclose(dicom.read(path)[0], (BODY + 300) / 702 * 255, **FULL)
