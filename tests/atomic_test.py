"""Tests of multimix_jax.atomic."""

import errno
import os
import re

import pytest

from multimix_jax import atomic
from multimix_jax.errors import UsageError


def refusal(path, act=lambda: None):
    with pytest.raises(UsageError) as error, atomic.writing("--out", path):
        act()
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_file_where_a_folder_is_due(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        message = refusal(path)
        assert f"--out={path} cannot be written (Not a directory: {tmp_path / 'file'})" in message


def test_a_folder_that_may_not_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    message = refusal(tmp_path / "no" / "out")
    assert f"cannot be written (Permission denied: {tmp_path}); name a folder that" in message


def test_what_the_system_says_while_it_is_written(tmp_path):
    def fail(number, *path):
        raise OSError(number, os.strerror(number), *map(str, path))

    out = tmp_path / "out"
    read_only = refusal(out, lambda: fail(errno.EROFS, out / "masks" / "a.png"))
    assert re.search(r"--out=\S+/out cannot be written \(Read-only \S+ \S+: \S+a\.png\)", read_only)
    for place in ((), (out / "a.png",)):
        assert "the disk of --out=" in refusal(out, lambda place=place: fail(errno.ENOSPC, *place))
    with pytest.raises(PermissionError), atomic.writing("--out", out):  # of what is read
        fail(errno.EACCES, tmp_path / "images" / "a.png")
    with atomic.writing("--out", out):
        out.mkdir()
