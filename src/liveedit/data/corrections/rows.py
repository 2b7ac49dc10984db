"""Rows of a file: the objects of JSON, one a line or in a list, or the lines of a table.

The content tells which it is: a list of JSON begins with ``[``, lines of JSON with ``{``; all else
is a table with a header, whose cells are separated by commas, semicolons or tabs. A file named
``.json``, ``.jsonl`` or ``.ndjson`` is JSON whatever it begins with. Text is UTF-8. The file ``-``
is standard input.
"""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from liveedit.artifacts import check_open
from liveedit.data.corrections.exports import HEADINGS
from liveedit.errors import BadInput
from liveedit.types import check_unicode, expanded

__all__ = ["STANDARD_INPUT", "Row", "Unit", "file_title", "read_rows"]

Unit = Literal["line", "item"]
"""The unit that rows are counted in: lines of the file, or items of a list of JSON."""

JSON_NAMES = {".json", ".jsonl", ".ndjson"}
LONGEST = 1 << 26
"""Largest number of characters of a row, enough for several photos as data URLs."""
SEPARATORS = ",;\t"
STANDARD_INPUT = Path("-")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Arguments:
        number: Its line, or its place in a list of JSON, counted from 1.
        fields: Its values by name; a name that a table's header repeats has a list of values.
        fault: Why it cannot be read; "" if it can.
        unit: What ``number`` counts.
    """

    number: int
    fields: dict[str, Any] = field(default_factory=dict)
    fault: str = ""
    unit: Unit = "line"


def read_rows(file: str | Path) -> list[Row]:
    """Read all rows of a file, also those with faults.

    Raises :class:`BadInput` for a file that is missing, empty or no text, and for one whose rows
    cannot be told apart.
    """
    path = expanded(file)
    text = _text(path)
    start = text.lstrip()[:1]
    if not start:
        raise BadInput(f"{file_title(path)} is empty: write one correction a line")
    if start == "[":
        return _list(path, text)
    if start != "{" and path.suffix.lower() not in JSON_NAMES:
        return list(_table(path, text))
    if (whole := _envelope(text)) is not None:
        return whole
    return list(_lines(text))


def file_title(path: Path) -> str:
    """A file as messages name it."""
    return "standard input" if path == STANDARD_INPUT else str(path)


def _text(path: Path) -> str:
    """The text of a file; bytes that are not UTF-8 become lone surrogates, a row's fault."""
    content = _content(path)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BadInput(
            f"{file_title(path)} is UTF-16, not UTF-8: save it as UTF-8, in Excel as 'CSV UTF-8'"
        )
    return content.decode("utf-8-sig", errors="surrogateescape")


def _content(path: Path) -> bytes:
    """The bytes of a file."""
    if path == STANDARD_INPUT:
        return sys.stdin.buffer.read() if sys.stdin else b""  # closed, it is None
    check_open(path)
    if path.is_dir():
        raise BadInput(f"{path} is a folder: give the file with the corrections")
    if not path.exists():  # pipes are no plain files
        raise BadInput(f"there is no file at {path}: check the path")
    return path.read_bytes()


def _fault(text: str) -> str:
    """Why the text of a row cannot be used; "" if it can."""
    if len(text) > LONGEST:
        return f"it has more than {LONGEST:,} characters: give the image as a path"
    if "\0" in text:
        return "it holds null characters: save the file as plain UTF-8 text"
    try:
        check_unicode("it", text)
    except BadInput:
        return "it is not UTF-8: save the file as UTF-8, in Excel as 'CSV UTF-8'"
    return ""


# JSON


def _lines(text: str) -> Iterator[Row]:
    """One object a line; empty lines are skipped."""
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if not line.strip():
            continue
        if fault := _fault(line):
            yield Row(number, fault=fault)
            continue
        try:
            yield _object(number, _parsed(line), "line")
        except (ValueError, RecursionError) as error:
            yield Row(number, fault=f"it is not JSON ({_reason(error)}): write one object a line")


def _list(path: Path, text: str) -> list[Row]:
    """The objects of a list of JSON."""
    try:
        return _items(_parsed(text))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file_title(path)} is not JSON ({_reason(error)}): repair it") from None


def _envelope(text: str) -> list[Row] | None:
    """The rows of a single object: itself, or its ``data``, as interfaces answer with.

    ``None`` where the text is not one object.
    """
    try:
        found = _parsed(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    if isinstance(found.get("data"), list):
        return _items(found["data"])
    return [_object(1, found, "line")]


def _items(values: list[Any]) -> list[Row]:
    return [_object(number, value, "item") for number, value in enumerate(values, start=1)]


def _object(number: int, value: Any, unit: Unit) -> Row:
    """The row of an object of JSON."""
    if not isinstance(value, dict):
        return Row(number, fault="it is not an object: write {…}", unit=unit)
    return Row(number, value, unit=unit)


def _parsed(text: str) -> Any:
    """The value of a text. Raises ``ValueError`` or ``RecursionError`` for anything but JSON."""
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises ``ValueError`` for a name given twice: one would be lost."""
    counts = Counter(name for name, _ in pairs)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"{twice[0][:40]!r} is given more than once")
    return dict(pairs)


def _reason(error: Exception) -> str:
    return str(error).partition(": line 1 column")[0] or "nested too deep"


# Tables


def _table(path: Path, text: str) -> Iterator[Row]:
    """The rows below a header; empty lines are skipped."""
    header = text.lstrip().partition("\n")[0]
    separator = max(SEPARATORS, key=header.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names: list[str] = []
    with _long_cells():
        for number, cells in _numbered(lines):
            if isinstance(cells, csv.Error):
                yield Row(number, fault=f"it is no row of a table ({cells}): check its quotes")
            elif names and any(cell.strip() for cell in cells):
                yield _record(number, names, cells)
            elif not names:
                names = _header(path, cells)


def _numbered(lines: Any) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """The first line of each row, and its cells or its fault."""
    while True:
        number = lines.line_num + 1
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            cells = error
        yield number, cells


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let a cell be as long as a row may be."""
    before = csv.field_size_limit(LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _header(path: Path, cells: list[str]) -> list[str]:
    """The names of the columns.

    Raises :class:`BadInput` if one has no name or is unreadable, and if none is a field.
    """
    title = file_title(path)
    if fault := _fault("".join(cells)):
        raise BadInput(f"{title}, header: {fault}")
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    if names and HEADINGS.isdisjoint(name.lower() for name in names):
        raise BadInput(
            f"{title} has no header: begin it with a line that names the columns, such as "
            "question,answer,image"
        )
    if "" in names:
        raise BadInput(f"{title} has a column without a name: name it in the first line")
    return names


def _record(number: int, names: list[str], cells: list[str]) -> Row:
    """The row of a line of a table; cells that are left out at its end are empty."""
    if fault := _fault("".join(cells)):
        return Row(number, fault=fault)
    if any(cells[len(names) :]):
        return Row(
            number,
            fault=f"it has {len(cells)} cells and the header {len(names)}: "
            "put a text with separators in quotation marks",
        )
    padded = [*cells, *[""] * (len(names) - len(cells))]
    found: dict[str, Any] = {}
    for name, cell in zip(names, padded, strict=False):
        found.setdefault(name, []).append(cell)
    return Row(number, {name: _single(values) for name, values in found.items()})


def _single(values: list[str]) -> str | list[str]:
    """The value of a column; those of columns of one name that are not empty, as a list."""
    return values[0] if len(values) == 1 else [value for value in values if value.strip()]
