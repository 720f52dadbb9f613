"""Text files that come with data: tables with a header, and lists of one entry a line."""

import csv
import io
import re
from collections.abc import Collection
from pathlib import Path

from data_pipelines.errors import DataError, shown
from data_pipelines.files.paths import one_form

_CONTROL = re.compile(r"[\0-\x08\x0e-\x1b\x7f]")  # all but white space
_LARGEST = 2**28  # bytes; the table of 112,120 radiographs has 9 million


def read_rows(path: Path, columns: Collection[str], due: str) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file, each with the line that it ends on.

    Cells that are missing are ''; white space within one, even a line break, becomes a blank.
    Raises DataError, which says what is `due`, where the file is missing, no text in UTF-8, not
    CSV, or lacks one of the columns.
    """
    text = _text(path, f"{due}, as text in UTF-8")
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
    try:
        names = reader.fieldnames or ()
        if not set(columns) <= set(names):
            raise DataError(f"{path} has the columns {shown(', '.join(names)) or '(none)'}; {due}")
        return [
            (reader.line_num, {name: " ".join(row[name].split()) for name in names})
            for row in reader
        ]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}, is no CSV ({error}); {due}") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file in UTF-8 that are not empty, without spaces around them."""
    text = _text(path, "save it as text in UTF-8, or copy or download it again")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _text(path: Path, remedy: str) -> str:
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise DataError(f"{path} has {size} bytes, too many for a table or list; {remedy}")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); {remedy}") from error
    if _CONTROL.search(text):
        raise DataError(f"{path} holds characters that no text has; {remedy}")
    return one_form(text)
