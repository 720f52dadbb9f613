"""Tests of data_pipelines.files.dicom."""

import io
import logging

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import encaps, filereader, pixels, uid

from data_pipelines import audit, make_builder
from data_pipelines.errors import DataError
from data_pipelines.files import dicom, images, read_image
from tests.official_formats import IDENTIFYING, write_dicom, write_image

DEEP = np.array([[0, 1000, 2000], [2500, 3000, 4095]], np.uint16)
NAMES = [text for text in IDENTIFYING.values() if isinstance(text, str)]


def read(tmp_path, values, **elements):
    return dicom.read(write_dicom(tmp_path / "a.dcm", values, **elements))[0]


def test_colour_becomes_luminance(tmp_path):
    rgb = np.array([[[255, 0, 0], [0, 255, 0], [9, 99, 200]]], np.uint8)
    elements = dict(PhotometricInterpretation="RGB", PlanarConfiguration=0)
    np.testing.assert_allclose(
        read(tmp_path, rgb, **elements), rgb @ np.array([0.299, 0.587, 0.114]), atol=1
    )


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({}, (0, 0)),
        (dict(PixelSpacing=[0.2, 0.3], ImagerPixelSpacing=[1, 1]), (0.2, 0.3)),
        (dict(ImagerPixelSpacing=[0.1, 0.1]), (0.1, 0.1)),
        (dict(PixelSpacing=[0, 0]), (0, 0)),
    ],
)
def test_spacing(tmp_path, elements, expected):
    assert dicom.read(write_dicom(tmp_path / "a.dcm", DEEP, **elements))[1] == expected


def packed(path, image, syntax, frame, **elements):
    """A DICOM file of one picture that was compressed before."""
    data = pydicom.dcmread(write_dicom(path, image, **elements))
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encaps.encapsulate([frame])
    data["PixelData"].VR = "OB"
    data.save_as(path, enforce_file_format=True)
    return path


def compressed(path, image, syntax, form, **options):
    """A DICOM file of pixels that Pillow has compressed."""
    if form == "JPEG2000":
        options = {"no_jp2": True} | options
    frame = io.BytesIO()
    Image.fromarray(image).save(frame, form, **options)
    return packed(path, image, syntax, frame.getvalue())


RAMP = np.add.outer(np.arange(0, 240, 10), np.arange(0, 16)).astype(np.uint8)


@pytest.mark.parametrize(
    ("syntax", "form", "atol"),
    [(uid.JPEG2000Lossless, "JPEG2000", 0), (uid.JPEGBaseline8Bit, "JPEG", 4)],
)
def test_compressed_pixels(tmp_path, syntax, form, atol):
    path = compressed(tmp_path / "a.dcm", RAMP, syntax, form)
    np.testing.assert_allclose(dicom.read(path)[0], RAMP, atol=atol)
    data = pydicom.dcmread(path)
    data.Rows //= 2
    data.save_as(path)
    with pytest.raises(DataError, match=r"a\.dcm holds an image of another size than it says"):
        dicom.read(path)


def test_a_jp2_file_within(tmp_path):
    path = compressed(tmp_path / "a.dcm", RAMP, uid.JPEG2000Lossless, "JPEG2000", no_jp2=False)
    np.testing.assert_array_equal(dicom.read(path)[0], RAMP)


TWELVE = RAMP.astype(np.uint16) * 16
PACKED = {
    "lossless": (uid.JPEGLosslessSV1, dict(lossless=True, bitspersample=12), 0),
    "lossless, another predictor": (
        uid.JPEGLossless,
        dict(lossless=True, bitspersample=12, predictor=4),
        0,
    ),
    "12 bits": (uid.JPEGExtended12Bit, dict(level=99, bitspersample=12), 3),
    "JPEG-LS": (uid.JPEGLSLossless, {}, 0),
    "JPEG-LS, near": (uid.JPEGLSNearLossless, dict(level=2), 2),
    "HTJ2K": (uid.HTJ2KLossless, {}, 0),
}


def compress(syntax, options):
    if syntax in uid.JPEGLSTransferSyntaxes:
        return imagecodecs.jpegls_encode(TWELVE, **options)
    if syntax == uid.HTJ2KLossless:
        return imagecodecs.htj2k_encode(TWELVE)
    return imagecodecs.jpeg8_encode(TWELVE, **options)


@pytest.mark.parametrize("form", PACKED)
def test_what_archives_hold(tmp_path, form):
    syntax, options, atol = PACKED[form]
    window = dict(BitsStored=12, HighBit=11, WindowCenter=2048, WindowWidth=4096)
    path = packed(tmp_path / "a.dcm", TWELVE, syntax, compress(syntax, options), **window)
    image, _ = dicom.read(path)
    np.testing.assert_allclose(image * np.float32(4095 / 255), TWELVE, atol=atol + 0.01)
    for name, value in (("Columns", 2**15), ("SamplesPerPixel", 3)):
        data = pydicom.dcmread(path)
        setattr(data, name, value)
        data.PhotometricInterpretation = "RGB" if name == "SamplesPerPixel" else "MONOCHROME2"
        data.BitsAllocated = 8 if name == "SamplesPerPixel" else 16
        data.save_as(tmp_path / "b.dcm")
        with pytest.raises(DataError, match=r"b\.dcm holds an image of another size than it says"):
            dicom.read(tmp_path / "b.dcm")


def test_a_decoder_that_is_not_there_is_named(tmp_path, monkeypatch):
    path = packed(tmp_path / "a.dcm", TWELVE, uid.JPEGExtended12Bit, b"\xff\xd8", BitsStored=12)
    decoder = pixels.get_decoder(uid.JPEGExtended12Bit)
    monkeypatch.setattr(decoder, "_available", {"pillow": None})
    words = r"a\.dcm is compressed as JPEG Extended .*no decoder here; pip install imagecodecs"
    with pytest.raises(DataError, match=words):
        dicom.read(path)


def test_run_lengths(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    data = pydicom.dcmread(path)
    data.compress(uid.RLELossless, generate_instance_uid=False)
    data.save_as(path)
    np.testing.assert_array_equal(dicom.read(path)[0], RAMP)


def _change(**elements):
    def change(path):
        data = pydicom.dcmread(path)
        for name, value in elements.items():
            setattr(data, name, value)
        data.save_as(path)

    return change


def _syntax(syntax):
    def change(path):
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = syntax
        data.PixelData = encaps.encapsulate([b"\0" * 32])
        data["PixelData"].VR = "OB"
        data.save_as(path, enforce_file_format=True)

    return change


def _without(*names):
    def change(path):
        data = pydicom.dcmread(path)
        for name in names:
            delattr(data, name)
        data.save_as(path)

    return change


def _without_syntax(path):
    _syntax(uid.JPEGBaseline8Bit)(path)
    content = path.read_bytes()
    place = content.index(uid.JPEGBaseline8Bit.encode())
    path.write_bytes(content[: place - 8] + content[place + len(uid.JPEGBaseline8Bit) :])


def _word(path):
    _change(RescaleSlope="1.000000", RescaleIntercept="0")(path)
    path.write_bytes(path.read_bytes().replace(b"1.000000", NAMES[0].encode()[:8].ljust(8)))


def _deflated(path):
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    data.save_as(path, enforce_file_format=True)


def _cut(part):
    def cut(path):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * part)])

    return cut


def _say_the_name(path):
    """Numbers and codes become the patient's name, as by a program gone wrong."""
    content = path.read_bytes()
    for old in (b"MONOCHROME2 ", b"1.2.840.10008.1.2.1\0"):
        content = content.replace(old, NAMES[0].encode().ljust(len(old))[: len(old)])
    path.write_bytes(content)


FAULTS = {
    "several frames": (_change(NumberOfFrames=2), "holds several frames; export the one to use"),
    "no pixels": (_without("PixelData"), "holds no pixels, .*; copy or export it again"),
    "no rows": (_change(Rows=0), "has no rows or no columns; export"),
    "far too large": (_change(Rows=60000, Columns=60000), "more than 67108864 pixels; export"),
    "too few pixels": (_change(Rows=1000), "cannot be read as DICOM .*; copy the file again"),
    "no width": (_without("Columns"), "does not say its Columns; export the image again"),
    "no meaning": (
        _without("PhotometricInterpretation", "SamplesPerPixel"),
        "does not say its PhotometricInterpretation, SamplesPerPixel; export",
    ),
    "no syntax": (_without_syntax, "does not say its TransferSyntaxUID; export it again"),
    "a word for a number": (_word, "has a RescaleSlope that cannot be read; export"),
    "palette": (_change(PhotometricInterpretation="PALETTE COLOR"), "is neither grey of 8 to 16"),
    "32 bits": (_change(BitsAllocated=32), "is neither grey of 8 to 16 bits nor RGB"),
    "video": (_syntax(uid.MPEG2MPML), "is compressed in a way that cannot be read; export it unc"),
    "damaged JPEG without loss": (_syntax(uid.JPEGLosslessSV1), "cannot be read as DICOM"),
    "damaged JPEG 2000": (_syntax(uid.JPEG2000), "cannot be read as DICOM"),
    "damaged JPEG": (_syntax(uid.JPEGBaseline8Bit), "cannot be read as DICOM"),
    "deflated": (_deflated, "is compressed as a whole .*; export it uncompressed"),
    "slope": (_change(RescaleSlope="1e300", RescaleIntercept="0"), "values that are not finite"),
    "pixels cut short": (
        lambda path: path.write_bytes(path.read_bytes()[:-4]),
        "cannot be read as DICOM",
    ),
    "header cut short": (_cut(0.2), "cannot be read as DICOM|holds no pixels"),
    "empty": (_cut(0), "cannot be read as DICOM"),
    "names for numbers": (_say_the_name, "cannot be read as DICOM|is neither grey"),
    "another kind": (lambda path: path.write_bytes(b"<html>" * 50), "cannot be read as DICOM"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_no_one_is(load_set, tmp_path, fault, caplog, capfd):
    """In one error each, without what pydicom says of them."""
    spoil, words = FAULTS[fault]
    path = write_dicom(tmp_path / "own" / "images" / "a.dcm", DEEP)
    spoil(path)
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(DataError, match=rf"images/a\.dcm .*({words})") as error,
    ):
        load_set("folder:own")
    assert error.value.__suppress_context__ or error.value.__context__ is None
    printed = capfd.readouterr()
    shown = str(error.value) + caplog.text + printed.out + printed.err
    assert not [name for name in NAMES if name in shown]


def test_folders_take_dicom_files_beside_others(load_set, tmp_path):
    folder = tmp_path / "own"
    write_dicom(folder / "images" / "a.dcm", RAMP, PixelSpacing=[0.5, 0.25])
    write_dicom(folder / "images" / "b.DICOM", RAMP)
    write_image(folder / "images" / "c.png", RAMP)
    write_image(folder / "masks" / "a.png", np.where(RAMP > 99, 255, 0).astype(np.uint8))
    examples = load_set("folder:own")
    assert examples.ids == ["a", "b", "c"]
    assert examples.has_mask.tolist() == [True, False, False]
    np.testing.assert_allclose(examples.spacing, [[0.5 * 24 / 16, 0.25], [0, 0], [0, 0]])
    pixels = examples.fetch(np.arange(3))["image"]
    np.testing.assert_array_equal(pixels[0], pixels[2])
    write_dicom(folder / "masks" / "c.dcm", RAMP)
    with pytest.raises(DataError, match=r"masks/c\.dcm: a mask cannot be DICOM; export it as PNG"):
        load_set("folder:own")


def _listed(tmp_path):
    builder = make_builder("folder:own", data_dir=tmp_path, prepared_dir="", size=16)
    sources, problems = builder.listed(tmp_path / "none")
    return {source.id: source.group for source in sources}, [problem.kind for problem in problems]


def test_films_of_one_patient_stay_together(tmp_path):
    """By the PatientID, of which nothing is kept; a table has the last word."""
    images_ = tmp_path / "own" / "images"
    ids = dict(a="7", b="9 ", c="7", d="", e="ANONYMOUS", f="9", g="", h="8", i="8")
    for name, patient in ids.items():
        write_dicom(images_ / f"{name}.dcm", DEEP, PatientID=patient)
    write_image(images_ / "j.png", RAMP)
    groups, kinds = _listed(tmp_path)
    assert "".join(groups.values()) == "abadebghhj"
    assert kinds == ["patients"]
    (tmp_path / "own" / "labels.csv").write_text("image,label,patient\nc,x,P\nb,y,a\ni,x,Q\n")
    groups, _ = _listed(tmp_path)
    assert list(groups.values()) == ["P", "a", "P", "d", "e", "a", "g", "Q", "Q", "j"]


def test_an_id_that_all_share_is_nobody(tmp_path):
    for name in "ab":
        write_dicom(tmp_path / "own" / "images" / f"{name}.dcm", DEEP, PatientID="study-1")
    assert _listed(tmp_path) == ({"a": "a", "b": "b"}, ["patients are not told apart"])


@pytest.mark.parametrize("damaged", [False, True])
def test_no_identifying_value_gets_out(load_set, tmp_path, damaged, caplog, capfd):
    """Neither into a file that preparing or auditing writes, nor to a screen or a log."""
    folder = tmp_path / "own"
    for n in range(3):
        path = write_dicom(folder / "images" / f"i{n}.dcm", DEEP + n)
        assert all(name.encode() in path.read_bytes() for name in NAMES)
    if damaged:
        _cut(0.9)(folder / "images" / "i1.dcm")
        _say_the_name(folder / "images" / "i2.dcm")
    messages = ""
    with caplog.at_level(logging.DEBUG):
        try:
            load_set("folder:own")
        except DataError as error:
            messages += str(error)
        builder = make_builder("folder:own", data_dir=tmp_path, prepared_dir="", size=16)
        findings = audit.audit({"folder:own": builder})
        print(audit.table(findings), findings)
    assert bool(messages) == damaged
    errors = [finding for finding in findings if finding.severity == audit.ERROR]
    assert sum("i1.dcm" in error.detail for error in errors) == damaged
    printed = capfd.readouterr()
    written = [p.read_bytes() for p in (tmp_path / "prepared").rglob("*") if p.is_file()]
    assert bool(written) != damaged
    shown = (messages + caplog.text + printed.out + printed.err).encode() + b"".join(written)
    assert not [name for name in NAMES if name.encode() in shown]


def test_the_audit_knows_dicom_behind_other_suffixes(tmp_path):
    folder = tmp_path / "own"
    write_dicom(folder / "images" / "a.dcm", DEEP).rename(folder / "images" / "a.png")
    write_image(folder / "images" / "b.png", RAMP).rename(folder / "images" / "b.dcm")
    builder = make_builder("folder:own", data_dir=tmp_path, prepared_dir="", size=16)
    described = {(f.kind, f.detail) for f in audit.audit({"folder:own": builder})}
    kind = "wrong type behind the extension"
    detail = f"{folder}/images/a.png is a DICOM file; {folder}/images/b.dcm is a PNG file"
    assert (kind, detail) in described


def bare(path):
    """Neither preamble nor meta header."""
    with path.open("rb") as file:
        filereader.read_preamble(file, force=False)
        filereader._read_file_meta_info(file)
        rest = file.read()
    path.write_bytes(rest)


def _renamed(name, write=write_dicom):
    return lambda folder: write(folder / "a.dcm", DEEP).rename(folder / name)


def _bare(folder):
    bare(write_dicom(folder / "a.dcm", DEEP))


def _bare_implicit(folder):
    data = pydicom.dcmread(write_dicom(folder / "a.dcm", DEEP))
    data.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
    data.save_as(folder / "a.dcm", implicit_vr=True)
    bare(folder / "a.dcm")


def _of_class(sop_class):
    return lambda folder: write_dicom(folder / "a.dcm", DEEP, SOPClassUID=sop_class)


def _directory(folder):
    """A DICOMDIR says what it is in its meta header alone."""
    data = pydicom.dcmread(write_dicom(folder / "a.dcm", DEEP))
    del data.SOPClassUID
    data.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    data.save_as(folder / "a.dcm")


KINDS = {
    "named as usual": (_renamed("b.dcm"), "image"),
    "of a CD": (_renamed("IM0"), "image"),
    "of Siemens": (_renamed("1.IMA"), "image"),
    "behind another suffix": (_renamed("b.png"), "image"),
    "without preamble": (_bare, "image"),
    "without preamble and types": (_bare_implicit, "image"),
    "of a class of its maker": (_of_class("1.2.3.4.5"), "image"),
    "a report": (_of_class(uid.BasicTextSRStorage), "other"),
    "a presentation state": (_of_class(uid.GrayscaleSoftcopyPresentationStateStorage), "other"),
    "a document": (_of_class(uid.EncapsulatedPDFStorage), "other"),
    "a directory": (_directory, "other"),
    "a picture": (lambda folder: write_image(folder / "a.png", RAMP), ""),
    "a text": (lambda folder: (folder / "a.txt").write_text("no DICM"), ""),
    "nothing": (lambda folder: (folder / "a").write_bytes(b""), ""),
    "numbers": (lambda folder: (folder / "a.raw").write_bytes(bytes([8, 0, 5, 0] * 99)), ""),
}


@pytest.mark.parametrize("case", KINDS)
def test_files_are_known_by_their_content(tmp_path, case):
    write, kind = KINDS[case]
    write(tmp_path)
    (path,) = tmp_path.iterdir()
    assert dicom.kind_of(path) == kind
    if kind == "image":
        expected = dicom.read(write_dicom(tmp_path / "expected.dcm", DEEP))[0]
        np.testing.assert_array_equal(read_image(path)[0], expected)
    if kind == "other":
        with pytest.raises(DataError, match=r"a\.dcm is DICOM without an image .*; leave it out"):
            read_image(path)


def test_other_readers_do_not_take_dicom():
    assert "DICOM" not in images.FORMATS
    assert images.FORMATS == ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000")
