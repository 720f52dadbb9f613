"""Tests of data_pipelines.files.archive."""

import io
import re
import shutil
import stat
import struct
import tarfile
import zipfile
from types import SimpleNamespace

import pytest

from data_pipelines.errors import DataError
from data_pipelines.files.archive import extract


@pytest.mark.parametrize("archive", ["set.zip", "set.tar.gz"])
def test_damaged_archive(tmp_path, archive):
    (tmp_path / archive).write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match=rf"{archive} cannot be extracted .*; download the archive"):
        extract(tmp_path / archive, tmp_path / "out")


def _zip(path, name, *, link=False, content=b"x"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        info = zipfile.ZipInfo(name)
        info.external_attr = (stat.S_IFLNK if link else stat.S_IFREG) << 16
        zipped.writestr(info, content, zipfile.ZIP_DEFLATED)


def _tar(path, name, *, link=False, content=b"x"):
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.size, info.linkname = len(content), "/etc/passwd"
        info.type = tarfile.SYMTYPE if link else tarfile.REGTYPE
        tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(("archive", "pack"), [("set.zip", _zip), ("set.tar.gz", _tar)])
@pytest.mark.parametrize(
    ("name", "link"), [("../a.png", False), ("/tmp/a.png", False), ("a.png", True), ("", False)]
)
def test_archives_that_lead_elsewhere_are_refused(tmp_path, archive, pack, name, link):
    pack(tmp_path / archive, name, link=link)
    with pytest.raises(DataError, match=rf"{archive} holds '{re.escape(name)}', which is a link"):
        extract(tmp_path / archive, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [archive]


@pytest.mark.parametrize(("archive", "pack"), [("set.zip", _zip), ("set.tar.gz", _tar)])
def test_archives_of_more_than_the_disk_holds_are_refused(tmp_path, archive, pack, monkeypatch):
    pack(tmp_path / archive, "a.png", content=bytes(2000))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=rf"{archive} holds 2000 .*1000 are free in .*; make room"):
        extract(tmp_path / archive, tmp_path / "out")


def test_archives_that_claim_more_than_they_can_hold_are_refused(tmp_path):
    path = tmp_path / "set.zip"
    _zip(path, "a.png")
    content = path.read_bytes()
    directory = content.index(b"PK\x01\x02")
    claim = struct.pack("<I", 2**31)
    path.write_bytes(content[: directory + 24] + claim + content[directory + 28 :])
    with pytest.raises(DataError, match=r"set\.zip holds 2147483648 .* cannot have packed more"):
        extract(path, tmp_path / "out")
