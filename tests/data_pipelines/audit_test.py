"""Tests of data_pipelines.audit."""

import json
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

from configs import common
from data_pipelines import DataError, audit, exclude, load, make_builder
from tests.official_formats import box, write_csv, write_image
from tests.small_runs import ROOT

SMOOTH = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)  # 0..126, bright below right


def picture(seed):
    """A smooth picture, unlike that of any other seed, but for where it is bright."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6), np.uint8))
    return np.asarray(coarse.resize((64, 64), Image.Resampling.BICUBIC)) // 4 + SMOOTH


@pytest.fixture
def own(tmp_path):
    """own/: 24 sound images with masks and labels, 12 to train on and 12 to test."""
    folder = tmp_path / "own"
    rows = []
    for n in range(24):
        write_image(folder / "images" / f"i{n:02d}.png", picture(n))
        write_image(folder / "masks" / f"i{n:02d}.png", box(64, 64, slice(8, 40), slice(8, 9 + n)))
        split = "train" if n < 12 else "test"
        rows.append((f"i{n:02d}", ("ill", "well")[n % 2], f"p{n}", split))
    write_csv(folder / "labels.csv", ("image", "label", "patient", "split"), rows)
    return folder


def findings(own):
    builder = make_builder("folder:own", data_dir=own.parent, prepared_dir="", size=64)
    return audit.audit({"folder:own": builder})


def kinds(every):
    return {finding.kind: finding for finding in every if finding.severity != audit.NOTE}


def test_a_sound_set_has_notes_alone(own):
    every = findings(own)
    assert kinds(every) == {}
    (values,) = (finding for finding in every if finding.kind == "mask values")
    assert values.detail == "0 and 255" and len(values.ids) == 24


def test_a_mask_of_zeros_is_noted_and_not_excluded(own):
    write_image(own / "masks" / "i03.png", np.zeros((64, 64), np.uint8))
    every = findings(own)
    assert not kinds(every)
    (empty,) = (one for one in every if one.kind == "empty mask")
    assert (empty.ids, empty.severity, list(empty.exclude)) == (["i03"], audit.NOTE, [])


def _save(path, array, mode, **options):
    Image.fromarray(array).convert(mode).save(path, **options)


DAMAGES = {
    "unreadable": lambda own: (own / "images/i03.png").write_bytes(b"nothing"),
    "constant image": lambda own: write_image(own / "images/i03.png", np.full((64, 64), 9, "u1")),
    "full mask": lambda own: write_image(own / "masks/i03.png", np.full((64, 64), 255, "u1")),
    "inverted image": lambda own: write_image(own / "images/i03.png", 255 - picture(3)),
    "wrong type behind the extension": lambda own: Image.fromarray(picture(3)).save(
        own / "images/i03.png", format="JPEG"
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_is_wrong_with_one_image(own, kind):
    DAMAGES[kind](own)
    by_kind = kinds(findings(own))
    assert set(by_kind) == {kind}
    assert by_kind[kind].ids == ["i03"]


def _empty(own):
    (own / "images/i03.png").write_bytes(b"")


def _truncate(own):
    path = own / "images/i03.png"
    path.write_bytes(path.read_bytes()[:200])


def _other_size(own):
    write_image(own / "masks/i03.png", box(32, 64, slice(2, 9), slice(2, 9)))


def _faint_mask(own):
    write_image(own / "masks/i03.png", np.eye(64, dtype=np.uint8) * 2)


@pytest.mark.parametrize("spoil", [_empty, _truncate, _other_size, _faint_mask])
def test_what_cannot_be_used_is_an_error(own, spoil):
    spoil(own)
    by_kind = kinds(findings(own))
    assert {finding.severity for finding in by_kind.values()} == {audit.ERROR}
    assert all(finding.ids == ["i03"] for finding in by_kind.values())


@pytest.mark.parametrize(
    ("mode", "options", "kind"),
    [
        ("P", {}, "palette"),
        ("RGB", {}, "colour"),
        ("RGBA", {}, "transparency"),
        ("LA", {}, "transparency"),
        ("I;16", {}, "more than 8 bits"),
    ],
)
def test_forms_of_pixels_are_noted(own, mode, options, kind):
    _save(own / "images/i03.png", picture(3), mode, **options)
    by_kind = {finding.kind: finding for finding in findings(own)}
    assert by_kind[kind].severity == audit.NOTE and by_kind[kind].ids == ["i03"]


def test_masks_with_soft_edges(own):
    soft = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
    write_image(own / "masks/i03.png", soft)
    by_kind = {finding.kind: finding for finding in findings(own)}
    assert by_kind["soft mask"].ids == ["i03"]


def test_duplicates_within_and_across_splits(own):
    for of, to in ((1, 2), (4, 20), (5, 21)):
        write_image(own / "images" / f"i{to:02d}.png", picture(of))
    noisy = picture(7).astype(int) + np.random.default_rng(0).integers(-3, 4, (64, 64))
    write_image(own / "images/i22.png", noisy.clip(0, 255).astype(np.uint8))
    by_kind = kinds(findings(own))
    assert set(by_kind) == {
        *("same image", "same image in test and train"),
        "nearly the same image in test and train",
    }
    assert sorted(by_kind["same image"].ids) == ["i01", "i02"]
    assert sorted(by_kind["nearly the same image in test and train"].ids) == ["i07", "i22"]
    every = findings(own)
    excluded = {entry for finding in every for entry in finding.exclude}
    # The test image stays.
    assert excluded == {("folder:own", name) for name in ("i02", "i04", "i05")}


def test_the_same_patient_in_two_splits(own):
    table = (own / "labels.csv").read_text().replace("i13,well,p13", "i13,well,p2")
    (own / "labels.csv").write_text(table)
    shared = kinds(findings(own))["same patient in train and test"]
    assert sorted(shared.ids) == ["i02", "i13"]
    assert "1 patients have images in both, such as p2" in shared.detail


def test_a_set_that_cannot_be_listed(own):
    write_image(own / "masks/other.png")
    (finding,) = findings(own)
    assert finding.kind == "cannot be listed" and "other.png is a mask without" in finding.detail


def run_audit(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "data_pipelines.audit", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_command_and_the_list_that_training_takes(own, tmp_path):
    _truncate(own)
    write_image(own / "images/i20.png", picture(4))
    where = dict(data_dir=own.parent, prepared_dir=str(tmp_path / "prepared"), size=64)
    with pytest.raises(DataError, match="i03.png"):
        load("folder:own", **where)
    result = run_audit(
        *("--config=configs/multimix.py:size=64", f"--config.data_dir={own.parent}"),
        *("--config.seg_data=folder:own", "--config.cls_data=folder:own"),
        *("--config.test_data=folder:own=test", f"--json={tmp_path / 'audit.json'}"),
        f"--exclude_list={tmp_path / 'exclude.csv'}",
    )
    assert result.returncode == 1, result.stderr
    assert "unreadable" in result.stdout
    assert "2 examples to exclude: --config.exclude=" in result.stdout
    entries = json.loads((tmp_path / "audit.json").read_text())
    assert {"unreadable", "same image in test and train"} <= {e["kind"] for e in entries}
    excluded = exclude.read(tmp_path / "exclude.csv")
    assert excluded == {"folder:own": {"i03", "i04"}}
    examples = load("folder:own", exclude=excluded, **where)
    assert len(examples) == 22 and not {"i03", "i04"} & set(examples.ids)


@pytest.mark.parametrize("flag", ["json", "exclude_list"])
def test_what_cannot_be_written_is_said_before_anything_is_read(tmp_path, flag, monkeypatch):
    (tmp_path / "file").touch()
    values = dict(json=None, exclude_list=None) | {flag: str(tmp_path / "file" / "x")}
    chosen = types.SimpleNamespace(config=common.get_config(), **values)
    monkeypatch.setattr(audit.flags, "FLAGS", chosen)
    monkeypatch.setattr(audit, "audit_config", None)
    with pytest.raises(SystemExit, match=f"^error: --{flag}={tmp_path}/file cannot be written"):
        audit.main([])


def test_faulty_lists(tmp_path):
    with pytest.raises(DataError, match=r"absent\.csv cannot be read .*--config\.exclude"):
        exclude.read(tmp_path / "absent.csv")
    (tmp_path / "other.csv").write_text("image,label\na,b\n")
    with pytest.raises(DataError, match="has the columns image, label; a list of examples"):
        exclude.read(tmp_path / "other.csv")


def _masks(own, draw):
    for path in sorted((own / "masks").iterdir()):
        with Image.open(path) as image:
            write_image(path, draw(np.array(image)))


def _relabel(own, label):
    rows = [f"i{n:02d},{label(n)},p{n},{'train' if n < 12 else 'test'}" for n in range(24)]
    (own / "labels.csv").write_text("\n".join(["image,label,patient,split", *rows]))


def _few_masks(own):
    for path in sorted((own / "masks").iterdir())[2:]:
        path.unlink()


WHOLE = {
    "inverted masks": (lambda own: _masks(own, lambda mask: 255 - mask), 24, "24 of 24 masks hold"),
    "mask too thin for the size": (
        lambda own: write_image(own / "masks/i03.png", box(64, 64, slice(8, 9), slice(8, 40))),
        2,
        "at 16x16 it fills 25% of a pixel at most",
    ),
    "few of a class": (lambda own: _relabel(own, lambda n: "ill" if n % 12 else "well"), 0, "2 of"),
    "few of a class in test": (
        lambda own: _relabel(own, lambda n: "ill" if n < 9 or n > 19 else "well"),
        0,
        "4 of ill; choosing and measuring takes 5 of each",
    ),
    "masks of few patients": (_few_masks, 0, "of 2; training, validation and test"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_what_shows_in_all_files_together(own, kind):
    spoil, count, words = WHOLE[kind]
    spoil(own)
    builder = make_builder("folder:own", data_dir=own.parent, prepared_dir="", size=16)
    found = kinds(audit.audit({"folder:own": builder}))[kind]
    assert found.severity == audit.WARNING and len(found.ids) == count and words in found.detail
    assert not found.exclude


def test_how_files_are_taken_is_noted(own):
    """Indices of classes, names in another form of Unicode, and with an ending."""
    _masks(own, lambda mask: np.where(mask, 1, 0).astype(np.uint8) + (mask.cumsum(0) > 999))
    for path in list((own / "masks").iterdir()):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    (own / "images" / "i01.png").rename(own / "images" / "e\u0301.png")
    (own / "masks" / "i01_mask.png").rename(own / "masks" / "\u00e9_mask.png")
    table = (own / "labels.csv").read_text().replace("i01,", "\u00e9,")
    (own / "labels.csv").write_text(table)
    details = {one.kind: one.detail for one in findings(own) if one.severity == audit.NOTE}
    assert details["values of masks"] == "0 is outside, 1 is 1, 2 is 2"
    assert (
        details["masks of other names"] == "masks are called like their images, with _mask behind"
    )
    assert (
        "1 names are not in Unicode's composed form" in details["names in another form of Unicode"]
    )
