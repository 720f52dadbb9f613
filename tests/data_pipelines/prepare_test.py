"""Tests of data_pipelines.prepare."""

import csv
import dataclasses
import json
import logging
import os
import shutil
import tarfile
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data_pipelines.audit import audit
from data_pipelines.errors import DataError
from data_pipelines.examples import Examples
from data_pipelines.files.paths import files_below
from data_pipelines.prepare import SPLIT
from data_pipelines.sets.image_set import ImageSetBuilder, lung_masks
from data_pipelines.source import Source
from tests.official_formats import box, write_image


class Flat(ImageSetBuilder):
    """Images *.png, masks *.gif beside them."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "draw some"
    files = ("*.png", "*.gif")
    archives = ("*.zip", "*.tar.gz")

    def find(self, roots):
        files = list(files_below(roots))
        sources = [
            Source(
                id=path.stem,
                group=path.stem[0],
                split="train",
                image=path,
                masks=tuple(m for m in files if m.name == f"{path.stem}.gif"),
                label=3,
            )
            for path in files
            if path.suffix == ".png"
        ]
        if not sources:
            raise self.missing("no images")
        return sources

    def read(self, source):
        image, mask, _ = super().read(source)
        return image, mask, (0.5, 2.0)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "flat"
    write_image(folder / "b1.png", np.full((32, 64), 200, np.uint8))
    write_image(folder / "a1.png", np.full((32, 64), 100, np.uint8))
    write_image(folder / "a1.gif", box(32, 64, slice(0, 16), slice(0, 32)))
    return folder


def build(source, size=16, cls=Flat, **options):
    prepared = str(source.parent / "new" / "prepared")
    return cls(source_dir=source, size=size, prepared_dir=prepared, **options)


def prepared_files(source):
    return sorted(p for p in (source.parent / "new").rglob("*") if p.is_file())


def test_prepares_what_the_sources_say(source):
    builder = build(source)
    builder.prepare()
    first, second = builder.as_data_source(SPLIT)
    assert (first["id"], first["group"], first["split"]) == (b"a1", b"a", b"train")
    assert (second["id"], second["has_mask"], first["has_mask"]) == (b"b1", False, True)
    assert first["label"] == 3
    np.testing.assert_array_equal(first["image"], np.full((16, 16, 1), 100))
    np.testing.assert_array_equal(
        first["mask"][..., 0], box(16, 16, slice(0, 8), slice(0, 8)) // 255
    )
    assert second["mask"].sum() == 0
    np.testing.assert_allclose(first["spacing"], [0.5 * 32 / 16, 2 * 64 / 16])


def test_writes_an_index_and_rebuilds_it(source):
    builder = build(source)
    builder.prepare()
    with builder.index_path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["a1", "b1"]
    assert rows[0]["source"] == str(source / "a1.png")
    builder.index_path.unlink()
    build(source).prepare()
    with builder.index_path.open() as file:
        rebuilt = list(csv.DictReader(file))
    assert rebuilt == [row | {"source": ""} for row in rows]


def test_what_the_audit_finds_is_stored_beside_the_table(source):
    """And is what it finds when it reads everything anew."""
    write_image(source / "c1.png", np.full((32, 64), 100, np.uint8))
    builder = build(source)
    assert builder.findings() is None
    builder.prepare()
    found = build(source).findings()
    counts = {finding.kind: len(finding.ids) for finding in found if finding.severity == "warning"}
    assert counts == {"constant image": 3, "same image": 2, "masks of few patients": 0}
    assert json.loads(json.dumps(list(map(dataclasses.asdict, audit({"flat": builder}))))) == [
        dataclasses.asdict(finding)
        | {
            "data_set": "flat",
            "exclude": finding.exclude and [["flat", id_] for _, id_ in finding.exclude],
        }
        for finding in found
    ]


def test_of_two_at_once_one_prepares(source, monkeypatch):
    read = []
    monkeypatch.setattr(Flat, "read", lambda self, s: read.append(s.id) or slowly(self, s))
    slowly = lambda self, s: time.sleep(0.2) or super(Flat, self).read(s)
    builders = [build(source) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Flat.prepare, builders))
    assert sorted(read) == ["a1", "b1"]
    for builder in builders:
        assert Examples.open(builder, cache_bytes=0).fetch(np.array([1, 0]))["image"].shape[0] == 2


def test_a_prepared_set_is_not_prepared_again(source, monkeypatch):
    build(source).prepare()
    monkeypatch.setattr(Flat, "read", None)
    again = build(source)
    again.prepare()
    assert len(again.as_data_source(SPLIT)) == 2


@pytest.mark.parametrize("change", ["content", "added", "removed"])
def test_changed_files_are_prepared_again(source, change, caplog):
    build(source).prepare()
    if change == "content":
        write_image(source / "b1.png", np.full((32, 64), 50, np.uint8))
        os.utime(source / "b1.png", ns=(1, 1))
    elif change == "added":
        write_image(source / "c1.png", np.full((8, 8), 7, np.uint8))
    else:
        (source / "b1.png").unlink()
    builder = build(source)
    with caplog.at_level(logging.WARNING):
        builder.prepare()
    assert f"the files in {source} have changed since" in caplog.text
    assert "preparing again" in caplog.text
    values = [int(record["image"][0, 0, 0]) for record in builder.as_data_source(SPLIT)]
    assert (
        values == {"content": [100, 50], "added": [100, 200, values[-1]], "removed": [100]}[change]
    )


def test_an_older_preparation_that_cannot_be_read_does_no_harm(source):
    builder = build(source)
    builder.prepare()
    note = builder.index_path.with_name("origin.txt")
    note.unlink()
    note.mkdir()  # reading it fails, as that of another user's may
    (source / "b1.png").unlink()
    again = build(source)
    again.prepare()
    assert len(again.as_data_source(SPLIT)) == 1


def test_a_set_of_which_everything_is_excluded_is_refused(source):
    everything = ["a1", "b1"]
    with pytest.raises(DataError, match=f"every example in {source} is excluded .config.exclude"):
        build(source, exclude=everything).prepare()


def test_other_preparations_are_not_older_ones(source, caplog):
    """Another size or fit, other examples left out, or files of another place."""
    prepared = str(source.parent / "new" / "prepared")
    at = dict(source_dir=source, prepared_dir=prepared)
    moved = shutil.copytree(source, source.parent / "moved")
    Flat(**at, size=16).prepare()
    write_image(source / "c1.png", np.full((8, 8), 7, np.uint8))
    with caplog.at_level(logging.WARNING):
        Flat(**at, size=16, fit="pad").prepare()
        Flat(**at, size=32).prepare()
        Flat(**at, size=16, exclude=["a1"]).prepare()
        Flat(**at | {"source_dir": moved}, size=16).prepare()
        assert not caplog.text
        Flat(**at, size=16).prepare()
    assert "have changed since" in caplog.text


def test_hidden_files_do_not_count(source, caplog):
    build(source).prepare()
    (source / ".DS_Store").write_bytes(b"x")
    (source / "__MACOSX").mkdir()
    (source / "__MACOSX" / "a1.png").write_bytes(b"x")
    builder = build(source)
    assert builder.index_path.exists()
    assert [path.name for path in files_below([source])] == ["a1.gif", "a1.png", "b1.png"]


def test_the_order_is_that_of_the_ids_however_long_each_takes(tmp_path):
    class Slow(Flat):
        def find(self, roots):
            return [Source(id=f"{n:03d}", group="") for n in reversed(range(60))]

        def read(self, source):
            time.sleep(0.01 if source.id.endswith("0") else 0)
            return np.full((16, 16), float(source.id), np.float32), None, (0.0, 0.0)

    builder = build(tmp_path / "none", cls=Slow)
    builder.prepare()
    ids = [record["image"][0, 0, 0] for record in builder.as_data_source(SPLIT)]
    assert ids == list(range(60))


def test_more_than_one_shard(source, monkeypatch):
    monkeypatch.setattr("data_pipelines.prepare._SHARD_BYTES", 2 * 16 * 16)
    builder = build(source)
    builder.prepare()
    assert builder.info.splits[SPLIT].num_shards == 2
    assert [record["id"] for record in builder.as_data_source(SPLIT)] == [b"a1", b"b1"]


def test_nothing_is_left_in_the_folder_for_passing_files(source, tmp_path, monkeypatch):
    """TFDS would leave an empty folder of each set that is not prepared yet."""
    (tmp_path / "passing").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "passing"))
    build(source).prepare()
    assert not list((tmp_path / "passing").iterdir())


def test_nothing_is_left_of_a_failure(source):
    (source / "b1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"^\S*b1\.png is empty \(0 bytes\); copy or download"):
        build(source).prepare()
    assert not (source.parent / "new").exists()


def test_a_failure_counts_what_else_cannot_be_read_and_names_the_audit(source):
    for name in ("a0", "b1", "c1"):
        (source / f"{name}.png").write_bytes(b"")
    remedy = r"multimix-audit --config=\.\.\. --exclude_list=exclude\.csv .*--config\.exclude="
    with pytest.raises(DataError, match=rf"a0\.png is empty .* 3 of 4 examples .*{remedy}"):
        build(source).prepare()


def test_nothing_is_left_of_an_interrupt(source):
    class Interrupted(Flat):
        def read(self, source):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(source, cls=Interrupted).prepare()
    assert not (source.parent / "new").exists()


def test_a_failure_spares_what_was_there(source):
    build(source).prepare()
    before = prepared_files(source)
    (source / "b1.png").write_bytes(b"")
    with pytest.raises(DataError):
        build(source).prepare()
    assert prepared_files(source) == before


def test_missing_files_are_explained(tmp_path):
    with pytest.raises(DataError, match=r"flat: no images; set --config\.data_dir .*draw some"):
        build(tmp_path / "flat").prepare()


@pytest.mark.parametrize("size", [0, -16, 100])
def test_size_must_be_a_multiple_of_16(source, size):
    with pytest.raises(DataError, match=rf"size={size}, .*--config\.size"):
        build(source, size)


def test_mask_of_another_size(source):
    write_image(source / "a1.gif", box(32, 63, slice(0, 16), slice(0, 32)))
    with pytest.raises(DataError, match=r"a1\.gif is 32x63 .*a1\.png must be 32x64; export"):
        build(source).prepare()


def test_a_mask_of_zeros_says_that_nothing_is_there(source):
    write_image(source / "a1.gif", np.zeros((32, 64), np.uint8))
    builder = build(source)
    builder.prepare()
    assert Examples.open(builder, cache_bytes=0).has_mask.tolist() == [True, False]


def test_a_mask_that_is_scaled_badly_is_named(source):
    write_image(source / "a1.gif", box(32, 64, slice(0, 16), slice(0, 32)) // 127)
    match = r"a1\.gif marks no pixel: it holds the values 0, 2, .* scale 255; .*mask_values"
    with pytest.raises(DataError, match=match):
        build(source).prepare()


@pytest.mark.parametrize("archive", ["set.zip", "set.tar.gz"])
def test_archives_are_extracted_and_not_kept(source, tmp_path, archive):
    packed = tmp_path / "packed" / archive
    packed.parent.mkdir()
    if archive.endswith(".zip"):
        with zipfile.ZipFile(packed, "w") as zipped:
            for path in source.iterdir():
                zipped.write(path, f"top/{path.name}")
    else:
        with tarfile.open(packed, "w:gz") as tar:
            tar.add(source, "top")
    builder = build(packed.parent)
    builder.prepare()
    assert [record["id"] for record in builder.as_data_source(SPLIT)] == [b"a1", b"b1"]
    assert all(path.parent == builder.index_path.parent for path in prepared_files(source))


@pytest.mark.parametrize("name", ["../a", "/a"])
def test_names_that_files_cannot_be_named_after(source, name):
    class Odd(Flat):
        def find(self, roots):
            return [Source(id=name, group="", image=self.source_dir / "a1.png")]

    with pytest.raises(DataError, match="a1.png: an example cannot be called .*; rename it"):
        build(source, cls=Odd).prepare()


def test_says_how_many_images_are_missing(source, caplog):
    class Three(Flat):
        complete = 3

    with caplog.at_level(logging.WARNING):
        build(source, cls=Three).prepare()
    assert f"{source}: found 2 examples; the complete set has 3" in caplog.text


def test_prints_nothing(source, capfd):
    build(source).prepare()
    assert capfd.readouterr().out == ""


def test_one_lung_without_the_other(tmp_path):
    left, both = tmp_path / "L" / "x.png", tmp_path / "masks" / "x.png"
    assert lung_masks({}, ("L", "R")) == ()
    assert lung_masks({"masks": both}, ("L", "R")) == (both,)
    assert lung_masks({"R": both, "L": left}, ("L", "R")) == (left, both)
    with pytest.raises(DataError, match=r"x\.png has no counterpart in 'R'; fetch the masks"):
        lung_masks({"L": left}, ("L", "R"))
