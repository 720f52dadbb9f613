"""Tests of data_pipelines.sets.folder."""

import shutil
import unicodedata

import numpy as np
import pytest

from data_pipelines import make_builder
from data_pipelines.errors import DataError
from data_pipelines.sets import mask_values
from multimix_jax.labels import VOID, LabelSpec
from multimix_jax.names import Task
from tests.official_formats import box, write_csv, write_image


@pytest.fixture
def folder(tmp_path):
    """Images of every accepted kind; one has a mask."""
    root = tmp_path / "folder"
    for n, suffix in enumerate(("png", "jpg", "jpeg", "gif", "bmp", "tif", "TIFF")):
        write_image(root / "images" / f"i{n}.{suffix}")
    write_image(root / "masks" / "i2.png", box(24, 20, slice(0, 12), slice(0, 20)))
    return root


def write_labels(folder, *rows, columns=("image", "label")):
    write_csv(folder / "labels.csv", columns, rows)


def test_images_and_masks_without_labels(load_set, folder):
    (folder / "images" / "notes.txt").write_text("not an image")
    examples = load_set("folder")
    assert examples.name == "folder"
    assert examples.label_spec.class_names == ()
    assert examples.ids == [f"i{n}" for n in range(7)]
    assert examples.groups.tolist() == examples.ids
    assert examples.labels.tolist() == [-1] * 7
    assert examples.has_mask.tolist() == [n == 2 for n in range(7)]


def test_labels(load_set, folder):
    columns = ("image", "label", "patient", "split")
    rows = [("i0.png", "well", "p1", "train"), ("i1", "ill", "", "val"), ("i2.jpeg", "", "p1", "")]
    write_labels(folder, *rows, columns=columns)
    examples = load_set("folder")
    assert examples.label_spec.class_names == ("ill", "well")
    assert examples.labels.tolist() == [1, 0] + [-1] * 5
    assert examples.groups.tolist()[:4] == ["p1", "i1", "p1", "i3"]
    assert examples.splits.tolist()[:4] == ["train", "val", "", ""]


def test_independent_classes(load_set, folder):
    columns = ("image", "effusion", "patient", "mass")
    rows = [("i0", "0", "p", "0"), ("i1", "1.0", "p", "0.0"), ("i2", "", "", ""), ("i3", 1, "", 1)]
    write_labels(folder, *rows, columns=columns)
    examples = load_set("folder")
    assert examples.label_spec == LabelSpec(("effusion", "mass"), multi_label=True)
    unknown = [-1, -1]
    assert examples.labels.tolist() == [[0, 0], [1, 0], unknown, [1, 1], *[unknown] * 3]
    assert examples.known(Task.CLS).tolist() == [True, True, False, True, *[False] * 3]


def test_findings_that_are_known_in_part(load_set, folder, caplog):
    """As CheXpert and MIMIC have them: 1.0, 0.0, -1.0 (uncertain) or nothing."""
    rows = ["i0;1.0;-1.0;0.0", "i1;;1;nan", "i2;0;;", "i3;-1;;NA"]
    text = "\n".join(["Image;Effusion;Lung mass;Edema", *rows])
    (folder / "labels.csv").write_text(text)
    examples = load_set("folder")
    assert examples.label_spec == LabelSpec(("Effusion", "Lung mass", "Edema"), multi_label=True)
    nothing = [-1, -1, -1]
    assert examples.labels.tolist() == [[1, -1, 0], [-1, 1, -1], [0, -1, -1], *[nothing] * 4]
    assert examples.known(Task.CLS).tolist() == [True] * 3 + [False] * 4
    assert "4 labels that are -1.0, nan, -1, NA are taken as unknown" in caplog.text
    assert "no image is known to have Edema, which cannot be learned" in caplog.text
    assert "no image is known to be without Lung mass" in caplog.text
    (partly,) = (found for found in examples.findings if found.kind == "labels known in part")
    assert partly.ids == ["i0", "i1", "i2"]


@pytest.mark.parametrize("cell", ["yes", "2", "-2"])
def test_independent_classes_that_are_not_told(load_set, folder, cell):
    write_labels(folder, ("i0", "1", cell), columns=("image", "effusion", "mass"))
    with pytest.raises(DataError, match=f"line 2, has '{cell}' in the column 'mass', but .*0 or 1"):
        load_set("folder")


def test_headers_as_people_write_them(load_set, folder, caplog):
    columns = ("Image", " LABEL", "Patient_ID", "Split", "Age", "")
    rows = [("i0", "ill", "p1", "TRAIN", 3, 0), ("i1", "ill", "P1", "Validation", 4, 1)]
    rows += [("i2", "NaN", "nan", "testing", 5, 2), ("i3", "0.0", "p2.0", "dev", 6, 3)]
    write_labels(folder, *rows, ("i4", 0, "p2.0", "NA", 7, 4), columns=columns)
    examples = load_set("folder")
    assert examples.label_spec == LabelSpec(("0", "ill"))
    assert examples.labels.tolist() == [1, 1, -1, 0, 0, -1, -1]
    assert examples.groups.tolist()[:5] == ["p1", "p1", "i2", "p2.0", "p2.0"]
    assert examples.splits.tolist()[:5] == ["train", "val", "test", "val", ""]
    for words in (
        "not used are the columns Age, one without a name; used are image, label, patient, split",
        "1 labels that are NaN are taken as unknown",
        "1 rows name no patient, so that each image counts as one",
    ):
        assert words in caplog.text
    kinds = {finding.kind for finding in examples.findings}
    assert {"columns not used", "labels taken as unknown", "rows without a patient"} <= kinds


def test_folders_of_images_that_are_called_after_splits(load_set, folder):
    for n, name in enumerate(("Train", "valid", "test")):
        (folder / "images" / name).mkdir()
        (folder / "images" / f"i{n}.{('png', 'jpg', 'jpeg')[n]}").rename(
            folder / "images" / name / "i.png"
        )
    shutil.rmtree(folder / "masks")
    write_labels(folder, ("test/i", "ill", "val"), columns=("image", "label", "split"))
    examples = load_set("folder")
    assert examples.ids[:1] + examples.ids[-2:] == ["Train/i", "test/i", "valid/i"]
    assert examples.splits.tolist() == ["train", "", "", "", "", "val", "val"]  # the table's first


@pytest.mark.parametrize(
    ("labels", "classes", "match"),
    [
        (("Normal", "normal"), "", r"line 3, has the label 'normal', and .*line 2, has 'Normal'"),
        (("lung mass", "Lung_Mass"), "", "'Lung_Mass', and .* has 'lung mass'.*; spell them alike"),
        (("a", "b"), "a\nb\na\n", r"classes\.txt names 'a' and 'a', which are one class"),
        (("a", "b"), "a\nb\n A\n", r"classes\.txt names 'a' and 'A', which are one class"),
        (("a", "B"), "a\nb\n", r"line 3, has the label 'B', but \S*classes\.txt names a, b"),
    ],
)
def test_one_class_in_two_spellings(load_set, folder, labels, classes, match):
    write_labels(folder, *((f"i{n}", label) for n, label in enumerate(labels)))
    if classes:
        (folder / "classes.txt").write_text(classes)
    with pytest.raises(DataError, match=match):
        load_set("folder")


def test_minus_one_as_a_class(load_set, folder):
    write_labels(folder, ("i0", "1"), ("i1", "-1"))
    with pytest.raises(DataError, match=r"line 3, has the label -1, and all others are '1' or em"):
        load_set("folder")
    write_labels(folder, ("i0", "1"), ("i1", "-1"), ("i2", 0))
    assert load_set("folder").labels.tolist()[:3] == [1, -1, 0]


def test_a_class_may_be_called_none_where_it_is_listed(load_set, folder):
    write_labels(folder, ("i0", "None"), ("i1", "0.0"), ("i2", ""))
    (folder / "classes.txt").write_text("None\n0\n")
    assert load_set("folder").labels.tolist()[:3] == [0, 1, -1]


def test_excluded_with_or_without_a_suffix(load_set, folder, caplog):
    listed = {"folder": {"i0.png", "i1", "i6.TIFF", "i9", "i2.png"}}
    assert load_set("folder", exclude=listed).ids == ["i2", "i3", "i4", "i5"]
    assert "exclude names 2 that folder lacks: i2.png, i9" in caplog.text


@pytest.mark.parametrize("entry", ["i0", "i0.png"])
@pytest.mark.parametrize("ending", ["", "_mask"])
def test_a_faulty_mask_of_an_excluded_image_is_not_looked_at(load_set, folder, entry, ending):
    for path in (folder / "masks").iterdir():
        path.replace(path.with_name(f"{path.stem}{ending}{path.suffix}"))
    write_image(folder / "masks" / f"i0{ending}.png", np.full((24, 20), 100, np.uint8))
    with pytest.raises(DataError, match="i0"):
        load_set("folder")
    assert load_set("folder", exclude={"folder": {entry}}).ids[0] == "i1"


def test_classes_file_gives_the_order(load_set, folder):
    write_labels(folder, ("i0", "well"), ("i1", "ill"))
    (folder / "classes.txt").write_text("well\nill\nunseen\n")
    examples = load_set("folder")
    assert examples.label_spec.class_names == ("well", "ill", "unseen")
    assert examples.labels.tolist()[:2] == [0, 1]


def test_folders_within_images(load_set, folder):
    write_image(folder / "images" / "ward" / "i0.png")
    write_image(folder / "masks" / "ward" / "i0.png", np.full((24, 20), 1, np.uint8))
    examples = load_set("folder")
    assert examples.ids[-1] == "ward/i0"
    np.testing.assert_array_equal(examples.fetch(np.array([7]))["mask"], np.ones((1, 16, 16, 1)))


def test_folders_anywhere(load_set, folder, tmp_path):
    """Images, masks and labels may lie apart."""
    folder.rename(tmp_path / "pictures")
    images, masks = tmp_path / "pictures" / "images", tmp_path / "pictures" / "masks"
    table = write_csv(tmp_path / "kinds.csv", ("image", "label"), [("i0.png", "well")])
    where = dict(images=str(images), masks=str(masks), labels=str(table))
    examples = load_set("folder", data_dir="", folder=where)
    assert examples.name == "folder_pictures_images"
    assert (examples.label_spec.class_names, examples.has_mask.sum()) == (("well",), 1)
    assert not load_set("folder", data_dir="", folder={"images": str(images)}).has_mask.any()
    with pytest.raises(DataError, match=r"--config\.folder\.labels=absent\.csv is not a file"):
        load_set("folder", data_dir="", folder=where | {"labels": "absent.csv"})


def test_masks_of_several_classes(load_set, folder):
    """A folder of each; what is not there of an image with a mask is empty."""
    (folder / "masks" / "i2.png").unlink()
    write_image(folder / "masks" / "lung" / "i2.png", box(24, 20, slice(0, 12), slice(0, 20)))
    write_image(folder / "masks" / "heart" / "i2.png", box(24, 20, slice(12, 24), slice(0, 20)))
    write_image(folder / "masks" / "heart" / "i3.png", box(24, 20, slice(0, 24), slice(0, 10)))
    examples = load_set("folder")
    assert examples.label_spec.mask_names == ("heart", "lung")
    assert examples.has_mask.tolist() == [n in (2, 3) for n in range(7)]
    masks = examples.fetch(np.array([2, 3]))["mask"]
    upper = np.arange(16)[:, None] < 8
    np.testing.assert_array_equal(masks[0, ..., 1], np.broadcast_to(upper, (16, 16)))
    np.testing.assert_array_equal(masks[0, ..., 0], np.broadcast_to(~upper, (16, 16)))
    np.testing.assert_array_equal(masks[1, ..., 0], np.broadcast_to(upper.T, (16, 16)))
    assert not masks[1, ..., 1].any()


def test_masks_within_and_without_classes(load_set, folder):
    lung = write_image(folder / "masks" / "lung" / "i2.png", box(24, 20, slice(9), slice(9)))
    with pytest.raises(DataError, match=r"i2\.png lies beside the folders of the classes \(lung"):
        load_set("folder")
    lung.rename(lung.with_name("i9.png"))
    (folder / "masks" / "i2.png").unlink()
    with pytest.raises(DataError, match=r"lung/i9\.png is a mask without an image"):
        load_set("folder")
    write_image(folder / "images" / "ward" / "i0.png")
    write_image(folder / "masks" / "ward" / "i0.png", box(24, 20, slice(9), slice(9)))
    with pytest.raises(DataError, match=r"has folders that images has .* and others \(lung\)"):
        load_set("folder")


def test_colours(load_set, folder):
    colours = np.zeros((24, 20, 4), np.uint8)
    colours[..., 0], colours[..., 2] = 200, 50  # without a trace of opacity
    write_image(folder / "images" / "i0.png", colours)
    examples = load_set("folder", channels=3, fit="pad")
    image = examples.fetch(np.array([0]))["image"][0]
    assert image.shape == (16, 16, 3)
    np.testing.assert_array_equal(image[:, 2:-2], np.broadcast_to((200, 0, 50), (16, 12, 3)))


def test_label_that_is_no_class(load_set, folder):
    write_labels(folder, ("i0", "well"), ("i1", "dead"))
    (folder / "classes.txt").write_text("well\nill\n")
    match = r"labels\.csv, line 3, has the label 'dead', but \S*classes\.txt names well, ill"
    with pytest.raises(DataError, match=match):
        load_set("folder")


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (
            [("absent.png", "ill")],
            r"line 2, names the image 'absent\.png', which is not in",
        ),
        ([("i0", "ill"), ("i0.png", "ill")], r"line 3, is a second row for 'i0\.png'; remove one"),
    ],
)
def test_rows_that_cannot_be(load_set, folder, rows, match):
    write_labels(folder, *rows)
    with pytest.raises(DataError, match=match):
        load_set("folder")


def test_split_that_is_none(load_set, folder):
    write_labels(folder, ("i0", "ill", "held"), columns=("image", "label", "split"))
    with pytest.raises(DataError, match=r"line 2, has the split 'held'; use train, val or test"):
        load_set("folder")


def test_columns_that_are_missing(load_set, folder):
    write_labels(folder, ("i0", "ill"), columns=("file", "class"))
    with pytest.raises(DataError, match=r"labels\.csv has the columns file, class; .*image,label"):
        load_set("folder")


def test_columns_without_a_class(load_set, folder):
    write_labels(folder, ("i0", "p"), columns=("image", "patient"))
    with pytest.raises(DataError, match=r"labels\.csv has the columns image, patient; .*1 to 62"):
        load_set("folder")


def test_mask_without_image(load_set, folder):
    write_image(folder / "masks" / "other.png", box(24, 20, slice(0, 1), slice(0, 1)))
    with pytest.raises(
        DataError, match=r"other\.png is a mask without an image; add \S*images/other"
    ):
        load_set("folder")


@pytest.mark.parametrize("names", [("test", "train"), ("Training", "lung")])
def test_folders_of_masks_that_are_called_after_splits_are_no_classes(load_set, folder, names):
    for n, name in enumerate(names):
        write_image(folder / "masks" / name / f"i{n}.png", box(24, 20, slice(9), slice(9)))
    with pytest.raises(DataError, match=rf"masks has the folders {names[0]}.* no classes of masks"):
        load_set("folder")


def test_a_name_in_either_form_of_unicode_is_one_name(load_set, folder):
    """An accent may be a character of its own (NFD), as macOS has it, or not (NFC)."""
    nfc, nfd = (unicodedata.normalize(form, "zoë") for form in ("NFC", "NFD"))
    write_image(folder / "images" / nfd / f"{nfd}.png")
    write_image(folder / "images" / f"{nfc}2.png")
    (folder / "masks" / "i2.png").unlink()
    write_image(folder / "masks" / nfc / f"{nfc}.png", box(24, 20, slice(9), slice(9)))
    rows = [(f"{nfc}/{nfd}.png", f"{nfd}"), (f"{nfd}2", nfc)]
    write_labels(folder, *rows)
    examples = load_set("folder")
    assert examples.ids[-2:] == [f"{nfc}/{nfc}", f"{nfc}2"]
    assert examples.label_spec == LabelSpec((nfc,))
    assert examples.has_mask.tolist() == [False] * 7 + [True, False]
    assert len(load_set("folder", exclude={"folder": {f"{nfc}/{nfc}"}})) == 8
    write_image(folder / "images" / f"{nfd}2.png")
    with pytest.raises(DataError, match=r"2\.png and \S*2\.png have the same name; rename"):
        load_set("folder")


def test_classes_of_masks_in_either_form_of_unicode(load_set, folder):
    (folder / "masks" / "i2.png").rename(folder / "images" / "i8.png")
    nfc, nfd = (unicodedata.normalize(form, "Fußödem") for form in ("NFC", "NFD"))
    write_image(folder / "masks" / nfd / "i2.png", box(24, 20, slice(12), slice(20)))
    write_image(folder / "masks" / "a" / "i3.png", box(24, 20, slice(12), slice(20)))
    examples = load_set("folder")
    assert examples.label_spec.mask_names == (nfc, "a")
    masks = examples.fetch(np.array([2, 3]))["mask"].any(axis=(1, 2))
    np.testing.assert_array_equal(masks, np.eye(2))


def test_two_images_of_one_name(load_set, folder):
    write_image(folder / "images" / "i0.bmp")
    with pytest.raises(DataError, match=r"i0\.bmp and \S*i0\.png have the same name; rename"):
        load_set("folder")


def test_no_images(load_set, folder):
    for path in (folder / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"folder: no images .*labels\.csv"):
        load_set("folder")


def test_a_class_without_masks(load_set, folder):
    (folder / "masks" / "i2.png").unlink()
    write_image(folder / "masks" / "lung" / "i2.png", box(24, 20, slice(9), slice(9)))
    for name in ("heart", "liver"):
        (folder / "masks" / name / "empty").mkdir(parents=True)
    (folder / "masks" / "liver" / "notes.txt").write_text("to be drawn")
    with pytest.raises(DataError, match=r"masks/heart, \S*masks/liver: a folder .* class of masks"):
        load_set("folder")


def test_the_classes_of_masks_are_part_of_the_fingerprint(folder):
    (folder / "masks" / "i2.png").unlink()
    write_image(folder / "masks" / "ward" / "i2.png", box(24, 20, slice(9), slice(9)))
    at = lambda: make_builder("folder", data_dir=folder.parent, prepared_dir="", size=16)
    before = at()
    (folder / "images" / "ward").mkdir()  # makes a folder of images of the class
    assert (before.label_spec.mask_names, at().label_spec.mask_names) == (("ward",), ())
    assert before.index_path != at().index_path


@pytest.mark.parametrize("spelled", ["masks", "../images/masks"])
def test_masks_and_labels_among_the_images(load_set, folder, tmp_path, spelled):
    images = folder / "images"
    (folder / "masks").rename(images / "masks")
    (images / "masks" / "ward").mkdir()
    table = write_csv(images / "labels.csv", ("image", "label"), [("i0", "well")])
    where = dict(images=str(images), masks=str(images / spelled), labels=str(table))
    (images / "masks" / "ward").rmdir()
    examples = load_set("folder", data_dir="", folder=where)
    assert examples.ids == [f"i{n}" for n in range(7)]
    assert examples.has_mask.tolist() == [n == 2 for n in range(7)]
    without = load_set("folder", data_dir="", folder={"images": str(images)})  # another set
    assert len(without) == 8


@pytest.mark.parametrize("masks", ["images", ""])
def test_images_among_the_masks(load_set, folder, masks):
    where = dict(images=str(folder / "images"), masks=str(folder / masks))
    with pytest.raises(DataError, match=r"lie in the folder of the masks .*; move one of them"):
        load_set("folder", data_dir="", folder=where)


def test_a_named_folder_without_images(load_set, tmp_path):
    (tmp_path / "scans").mkdir()
    where = {"images": str(tmp_path / "scans")}
    message = r"no images \(.*\) in \S*scans; set --config\.folder\.images to the folder that"
    with pytest.raises(DataError, match=message) as error:
        load_set("folder", data_dir="", folder=where)
    assert "data_dir" not in str(error.value)


def test_contents_tell_what_lies_there_and_not_where(folder, tmp_path):
    write_labels(folder, ("i0", "well"), ("i1", "ill"))
    at = lambda root: make_builder("folder", data_dir=root, prepared_dir="", size=16).contents()
    before = at(tmp_path)
    assert all(before.values())
    shutil.copytree(folder, tmp_path / "moved" / "folder")  # at another time, too
    assert at(tmp_path / "moved") == before
    write_labels(tmp_path / "moved" / "folder", ("i0", "ill"), ("i1", "well"))
    changed = lambda root: [key for key, value in at(root).items() if value != before[key]]
    assert changed(tmp_path / "moved") == ["labels"]
    write_image(folder / "masks" / "i2.png", box(24, 20, slice(0, 3), slice(0, 5)))
    assert changed(tmp_path) == ["masks"]
    (folder / "images" / "i5.tif").rename(folder / "images" / "i7.tif")
    assert changed(tmp_path) == ["images", "masks"]
    assert changed(tmp_path / "moved") == ["labels"]
    shutil.rmtree(folder / "masks")
    assert at(tmp_path)["masks"] == ""


def test_contents_are_what_is_used(folder, tmp_path):
    """Not what a spreadsheet makes of the same table, nor what lies about."""
    write_labels(
        folder, ("i0", "well", ""), ("i1", "Zoë, 1", "p"), columns=("image", "label", "patient")
    )
    at = lambda: make_builder("folder", data_dir=tmp_path, prepared_dir="", size=16).contents()
    before = at()
    for place in ("images", "masks"):
        (folder / place / "Thumbs.db").write_bytes(b"thumbnails")
        (folder / place / "note.txt").write_text("all are well")
    rows = ['i1.jpg;"Zoë, 1";p;7', "i0;well;;8"]
    text = "\r\n".join(["Image;Label;Patient;Age", *rows, ";;;"])
    (folder / "labels.csv").write_bytes(text.encode("utf-8-sig"))
    assert at() == before
    (folder / "labels.csv").write_text(text.replace(";p;", ";q;"))
    assert [key for key, value in at().items() if value != before[key]] == ["labels"]


def test_masks_of_several_values_are_classes(load_set, folder, monkeypatch):
    mask = box(24, 20, slice(0, 12), slice(0, 20)) // 255
    mask[12:18], mask[18:] = 2, 255
    write_image(folder / "masks" / "i2.png", mask)
    write_image(folder / "masks" / "i3.png", box(24, 20, slice(0, 24), slice(0, 10)) // 255)
    examples = load_set("folder")
    assert (examples.label_spec.mask_names, examples.label_spec.void) == (("1", "2"), True)
    masks = examples.fetch(np.array([2, 3]))["mask"]
    rows = masks[0, :, 0].tolist()
    assert rows == [[1, 0]] * 8 + [[0, 1]] * 4 + [[VOID, VOID]] * 4
    assert masks[1, :, :8, 0].all() and not masks[1, ..., 1].any()
    monkeypatch.setattr(mask_values, "find", None)  # nothing is looked at a second time
    mask_values.find_in.cache_clear()
    assert load_set("folder").label_spec == examples.label_spec


def test_meanings_of_values_are_given(load_set, folder):
    mask = box(24, 20, slice(0, 12), slice(0, 20)) // 2
    mask[12:] = 255
    write_image(folder / "masks" / "i2.png", mask)
    with pytest.raises(DataError, match=r"i2\.png holds the values 0, 127, 255: neither"):
        load_set("folder")
    examples = load_set("folder", folder={"mask_values": "127=disc,255=void"})
    assert examples.label_spec == LabelSpec(mask_names=("disc",), void=True)
    rows = examples.fetch(np.array([2]))["mask"][0, :, 0, 0].tolist()
    assert rows == [1] * 8 + [VOID] * 8
    soft = load_set("folder", folder={"mask_values": "soft"})
    assert soft.fetch(np.array([2]))["mask"][0, :, 0, 0].tolist() == [0] * 8 + [1] * 8


def test_values_in_the_folder_of_one_class(load_set, folder):
    (folder / "masks" / "i2.png").unlink()
    mask = box(24, 20, slice(0, 12), slice(0, 20))
    left = write_image(folder / "masks" / "left" / "i2.png", mask)
    right = write_image(folder / "masks" / "right" / "i2.png", mask // 127)
    with pytest.raises(DataError, match=r"right/i2\.png marks no pixel: it holds the values 0, 2,"):
        load_set("folder")
    write_image(right, np.maximum(mask // 255, np.eye(24, 20, -12, np.uint8) * 255))
    examples = load_set("folder")
    assert (examples.label_spec.mask_names, examples.label_spec.void) == (("left", "right"), True)
    write_image(left, mask // 255 + np.eye(24, 20, dtype=np.uint8))
    with pytest.raises(DataError, match=r"masks/left is the folder of one class, .* several \(1,"):
        load_set("folder")
    with pytest.raises(DataError, match=r"masks/left is .* one class, .*folder\.mask_values says"):
        load_set("folder", folder={"mask_values": "1=a"})


@pytest.mark.parametrize("ending", ["_mask", "-mask", "_seg", "_segmentation", "_label"])
def test_masks_named_by_an_ending(load_set, folder, ending):
    (folder / "masks" / "i2.png").rename(folder / "masks" / f"i2{ending}.png")
    assert load_set("folder").has_mask.tolist() == [n == 2 for n in range(7)]
    write_image(folder / "masks" / "i3.png", box(24, 20, slice(9), slice(9)))
    match = rf"i2{ending}\.png is a mask without an image; .*each mask the name of .*_mask, -mask"
    with pytest.raises(DataError, match=match):
        load_set("folder")


def test_masks_beside_their_images(load_set, folder):
    write_image(folder / "images" / "i3_mask.png")
    match = r"i3_mask\.png lies beside \S*i3\.gif.* mask; move .*--config\.folder\.masks"
    with pytest.raises(DataError, match=match):
        load_set("folder")


@pytest.mark.parametrize("label", [(), ("label",)])
def test_images_in_which_nothing_is_there_to_be_marked(load_set, folder, label):
    cells = ("well",) * len(label)
    rows = [("i0", "1", *cells), ("i1", "", *cells), ("i2", "0", *cells), ("i3", "no", *cells)]
    write_labels(folder, *rows, columns=("image", "Annotated", *label))
    examples = load_set("folder")
    assert examples.label_spec.class_names == cells[:1]
    assert examples.has_mask.tolist() == [n in (0, 2) for n in range(7)]
    assert not examples.fetch(np.array([0]))["mask"].any()
    write_labels(folder, ("i0", "2", *cells), columns=("image", "annotated", *label))
    with pytest.raises(DataError, match=r"line 2, has '2' in the column 'annotated'; use 0 or 1"):
        load_set("folder")
