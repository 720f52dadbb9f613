"""Tests of data_pipelines.files.table."""

import pytest

from data_pipelines.errors import DataError
from data_pipelines.files import table

DUE = "the first line must be a,b"


def read(tmp_path, content):
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    return table.read_rows(path, ("a", "b"), DUE)


def test_rows(tmp_path):
    content = b'\xef\xbb\xbfa,c,b\r\n1,"two\nlines",3\r\n4\r\n'
    first, second = read(tmp_path, content)
    assert first == (3, {"a": "1", "c": "two lines", "b": "3"})
    assert second == (4, {"a": "4", "c": "", "b": ""})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"has the columns \(none\); the first line must be a,b"),
        (b'a,"c\nd"\n', r"has the columns a, c\\nd; the first line must be a,b"),
        (b"a,c\n", "has the columns a, c; the first line must be a,b"),
        (b"a,b\n\xff,1\n", "cannot be read .*; the first line must be a,b, as text in UTF-8"),
        (b"a,b\n1,\0\n", "holds characters that no text has; the first line must be a,b"),
        (b"a,b\n1," + b"x" * 2**18, r"line 1, is no CSV \(field larger .*; the first line must"),
    ],
)
def test_what_is_no_table(tmp_path, content, words):
    with pytest.raises(DataError, match=rf"x\.csv(, | ){words}"):
        read(tmp_path, content)


def test_what_is_too_large(tmp_path):
    with (tmp_path / "x.csv").open("wb") as file:
        file.truncate(2**29)
    with pytest.raises(DataError, match=r"x\.csv has 536870912 bytes, too many for a table"):
        table.read_rows(tmp_path / "x.csv", (), DUE)


def test_lines(tmp_path):
    (tmp_path / "x.list").write_bytes(b" one\r\n\n two words \n")
    assert table.read_lines(tmp_path / "x.list") == ["one", "two words"]
    with pytest.raises(DataError, match=r"absent\.list cannot be read .*; save it as text"):
        table.read_lines(tmp_path / "absent.list")
