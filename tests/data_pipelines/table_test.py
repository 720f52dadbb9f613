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
    "content",
    [
        b"\xef\xbb\xbfA ;other;_B\r\n1;2,5;3\r\n;;\r\n",
        b" a\tother\tb\n1\t2,5\t3\t\n",
        "A,other,B\n1,'2,5',3,,\n".replace("'", '"').encode("utf-16"),
    ],
)
def test_a_table_however_it_was_saved(tmp_path, content):
    """By spreadsheets of several countries, with headers as people write them."""
    ((_, cells),) = read(tmp_path, content)
    assert cells == {"a": "1", "other": "2,5", "b": "3"}


def test_columns_by_other_names_and_without_one(tmp_path):
    (tmp_path / "x.csv").write_text(",Image,Subject ID,\n0,a,p,\n1,b,q,\n")
    rows = table.read_rows(tmp_path / "x.csv", ("image",), DUE, {"patient": ("subject_id",)})
    assert [cells for _, cells in rows] == [
        {"": "0", "image": "a", "patient": "p"},
        {"": "1", "image": "b", "patient": "q"},
    ]
    (tmp_path / "x.csv").write_text("image,Patient,subject_id\na,p,q\n")
    with pytest.raises(DataError, match="Patient, subject_id, of which more than one is 'patient'"):
        table.read_rows(tmp_path / "x.csv", ("image",), DUE, {"patient": ("subject_id",)})


@pytest.mark.parametrize(
    ("cell", "value"),
    [("nan", ""), ("NA", ""), ("None", ""), ("none", "none"), ("0.0", "0"), ("-1.0", "-1")]
    + [("1.5", "1.5"), ("01", "01"), ("Normal", "Normal")],
)
def test_what_a_cell_says(cell, value):
    assert table.stated(cell) == value


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"has the columns \(none\); the first line must be a,b"),
        (b'a,"c\nd"\n', r"has the columns a, c d; the first line must be a,b"),
        (b"a,c\n", "has the columns a, c; the first line must be a,b"),
        (b"a,A,b\n", r"has the columns a, A, b, of which more than one is 'a'"),
        (b"a,b\n1,2\n1,Effusion, left\n", "line 3, has 3 cells, .* 2 columns; put 'left' into q"),
        (b'a,b\n1,"2\n3,4\n', r"line 3, is no CSV \(unexpected end of data\)"),
        (b"a,b\n\xff,1\n", "cannot be read .*; the first line must be a,b, as text in UTF-8"),
        (b"a,b\n1,\0\n", "holds characters that no text has; the first line must be a,b"),
        (b"a,b\n1," + b"x" * 2**18, r"line 2, is no CSV \(field larger .*; the first line must"),
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
