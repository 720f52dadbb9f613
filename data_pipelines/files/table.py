"""Text files that come with data: tables with a header, and lists of one entry a line."""

import codecs
import csv
import functools
import io
import re
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from data_pipelines.errors import DataError, shown
from data_pipelines.files.paths import one_form

_CONTROL = re.compile(r"[\0-\x08\x0e-\x1b\x7f]")  # all but white space
_DELIMITERS = ",;\t"  # as spreadsheets write them, by country
_LARGEST = 2**28  # bytes; the table of 112,120 radiographs has 9 million
# What programs write into a cell that holds nothing, as far as pandas reads it so, too.
_NOTHING = {"NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "-nan", "NULL", "null", "None"}


def read_rows(
    path: Path,
    columns: Collection[str],
    due: str,
    spellings: Mapping[str, Collection[str]] = types.MappingProxyType({}),
) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file, with commas, semicolons or tabs, each with the line that it ends on.

    `columns`, which must be there, are found whatever their case, blanks and underscores; so are
    those of `spellings`, each by other names besides. Other columns keep the names that they have;
    what lies in columns without a name is at ''. Cells that are missing are ''; white space within
    one, even a line break, becomes a blank.

    Raises DataError, which says what is `due`, where the file is missing, no text in UTF-8 or
    UTF-16, not CSV, lacks one of the columns or has one twice, or has cells beyond its header.
    """
    text = _text(path, f"{due}, as text in UTF-8 (of a spreadsheet: CSV UTF-8)")
    known = {_key(other): name for name, others in spellings.items() for other in others}
    known |= {_key(name): name for name in (*columns, *spellings)}
    header: list[str] = []
    for delimiter in _DELIMITERS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            found = [" ".join(name.split()) for name in next(reader, [])]
            header = header or found
            names = [known.get(_key(name), name) for name in found]
            if not set(columns) <= set(names):
                continue
            if twins := find_twins(filter(None, names)):
                raise DataError(
                    f"{path} has the columns {shown(', '.join(found))}, of which more than one is "
                    f"{shown(twins[0])!r}; name them apart or remove one"
                )
            rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
            return [(line, _cells(f"{path}, line {line},", names, row)) for line, row in rows]
        except csv.Error as error:
            raise DataError(
                f"{path}, line {reader.line_num}, is no CSV ({error}); {due}"
            ) from error
    raise DataError(f"{path} has the columns {shown(', '.join(header)) or '(none)'}; {due}")


def _cells(line: str, names: Sequence[str], row: Sequence[str]) -> dict[str, str]:
    cells = [" ".join(cell.split()) for cell in row]
    if any(cells[len(names) :]):
        raise DataError(
            f"{line} has {len(cells)} cells, but the first line names {len(names)} columns; put "
            f"{shown(cells[len(names)])!r} into quotes together with what belongs to it "
            '("a, b"), or give it a column'
        )
    cells += [""] * (len(names) - len(cells))
    unnamed = " ".join(cell for name, cell in zip(names, cells) if cell and not name)
    return dict(zip(names, cells)) | ({"": unnamed} if "" in names else {})


def read_lines(path: Path) -> list[str]:
    """The lines of a text file in UTF-8 that are not empty, without spaces around them."""
    text = _text(path, "save it as text in UTF-8, or copy or download it again")
    return [line.strip() for line in text.splitlines() if line.strip()]


@functools.lru_cache(maxsize=2**12)  # millions of cells are alike
def stated(cell: str) -> str:
    """The cell, or '' where it says nothing; a whole number without the '.0' that it may have."""
    return "" if cell in _NOTHING else re.sub(r"^([+-]?\d+)\.0+$", r"\1", cell)


def find_twins(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two names that are the same but for case, blanks and underscores."""
    firsts: dict[str, str] = {}
    for name in names:
        if _key(name) in firsts:
            return firsts[_key(name)], name
        firsts[_key(name)] = name
    return None


def _key(name: str) -> str:
    return re.sub(r"[\s_]+", "", name).casefold()


def _text(path: Path, remedy: str) -> str:
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise DataError(f"{path} has {size} bytes, too many for a table or list; {remedy}")
        data = path.read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); {remedy}") from error
    if _CONTROL.search(text):
        raise DataError(f"{path} holds characters that no text has; {remedy}")
    return one_form(text)
