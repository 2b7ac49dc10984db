"""Records of annotation files, checked while reading: the part that all published forms share.

A file holds a JSON list, or a JSON value on each line (``.jsonl``). The form of a benchmark's
records is a :class:`PublishedRecord` with the published names as fields, or, where several
benchmarks share one, a module of its own (:mod:`liveedit.data.published.annotations`). Each fault
of a record is one line, which names file, record and field.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from liveedit.errors import BadInput
from liveedit.types import check_unicode, visible

__all__ = [
    "Blank", "Parse", "PublishedRecord", "Question", "Row", "Text",
    "in_form", "load", "no_unicode", "parse_as", "parse_each", "parse_into", "read_rows",
    "repeated",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """A question of a record, for the checks.

    Arguments:
        fields: The fields that hold it and its answer, in words for messages.
        question: Its text.
        answer: Its answer.
        image: Path of its image, relative to the folder of images; "" without one.
        image_field: The field that names the image.
    """

    fields: str
    question: str
    answer: str
    image: str = ""
    image_field: str = ""


class Row(Protocol):
    """A record that was read."""

    @property
    def number(self) -> int:
        """Index of the record in its file, from 0."""

    @property
    def questions(self) -> Sequence[Question]:
        """All questions of the record."""


Parse = Callable[[Path], tuple[list[Any], list[str]]]
"""Reads the valid records of a file, and one line for each fault of the others."""
R = TypeVar("R")


def read_rows(file: Path, parse: Parse) -> list[Any]:
    """Read all records of a file. Raises :class:`BadInput` with the first fault, if any."""
    rows, faults = parse(file)
    if not faults:
        return rows
    first = faults[0].partition(", ")[2]
    more = f", and {len(faults) - 1} more faults" if len(faults) > 1 else ""
    raise BadInput(f"{file}: {first}{more}: repair the file or download it again")


def load(file: Path) -> list[Any]:
    """The records of a file, as JSON has them.

    Raises :class:`BadInput` for a file that is missing, truncated or not a list of records.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        records = _lines(text) if file.suffix == ".jsonl" else _decoded(text)
    except FileNotFoundError:
        raise BadInput(f"no annotations at {file}: check the path") from None
    except OSError as error:
        raise BadInput(f"cannot read {file} ({error.strerror}): check the path") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file} is truncated or not JSON ({error}): download it again") from None
    if not isinstance(records, list) or not records:
        raise BadInput(f"{file} does not hold a list of records: download it again")
    return records


def _lines(text: str) -> list[Any]:
    """The values of JSON lines. Raises ``ValueError``, which names the line, for any other text."""
    values = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            values += [_decoded(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return values


def _decoded(text: str) -> Any:
    return json.loads(text, object_pairs_hook=Pairs)


class Pairs(dict[str, Any]):
    """A JSON object that also lists its repeated keys; a dict keeps only their last values."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs)
        self.repeated = [key for key, count in counts.items() if count > 1]


def repeated(record: Any) -> list[str]:
    """One fault for each repeated key of all objects in a record."""
    return [f"{key[:40]!a} is given more than once" for key in _repeated(record)]


def _repeated(record: Any) -> Iterator[str]:
    left = [record]
    while left:
        part = left.pop()
        if isinstance(part, Pairs):
            yield from part.repeated
            left += part.values()
        elif isinstance(part, list):
            left += part


def no_unicode(name: str, text: str) -> list[str]:
    """The fault of a field with lone surrogates, in a list; else an empty list."""
    try:
        check_unicode(f"'{name}'", text)
    except BadInput as error:
        return [str(error).partition(":")[0]]
    return []


# Records with a form of their own


def _unicode(text: str) -> str:
    """The text. Raises ``ValueError`` for one with lone surrogates, which pydantic takes."""
    if no_unicode("it", text):
        raise ValueError("holds characters that are not Unicode")
    return text


def _seen(text: str) -> str:
    """The text. Raises ``ValueError`` for one without a visible character."""
    if not visible(text):
        raise ValueError("is empty")
    return text


Blank = Annotated[str, AfterValidator(_unicode)]
"""A text that may be empty."""
Text = Annotated[Blank, AfterValidator(_seen)]
"""A text with something to read in it."""


class PublishedRecord(BaseModel):
    """Base class of a benchmark's form: the fields that are used, under their published names.

    ``place`` is the file's name without suffix, and the record's index in it ("eval:0").
    """

    model_config = ConfigDict(frozen=True, strict=True)

    place: str

    @property
    def number(self) -> int:
        """Index of the record in its file, from 0."""
        return int(self.place.rpartition(":")[2])


M = TypeVar("M", bound=PublishedRecord)


def parse_as(file: Path, form: type[M]) -> tuple[list[M], list[str]]:
    """Read the valid records of a file, and one line for each fault of the others.

    Raises :class:`BadInput` as :func:`load` does.
    """
    return parse_each(file, partial(in_form, form))


def parse_into(file: Path, form: type[M], make: Callable[[M], R]) -> tuple[list[R], list[str]]:
    """The rows that ``make`` makes of valid records, and one line for each fault of the others.

    Raises :class:`BadInput` as :func:`load` does.
    """

    def made(place: str, record: Any) -> tuple[R | None, list[str]]:
        row, faults = in_form(form, place, record)
        return None if row is None else make(row), faults

    return parse_each(file, made)


def parse_each(
    file: Path, make: Callable[[str, Any], tuple[R | None, list[str]]]
) -> tuple[list[R], list[str]]:
    """The rows that ``make`` makes of place and record, and one line for each fault of the others.

    Raises :class:`BadInput` as :func:`load` does.
    """
    rows = []
    faults = []
    for number, record in enumerate(load(file)):
        row, found = make(f"{file.stem}:{number}", record)
        faults += [f"{file.name}, record {number}: {fault}" for fault in found]
        if row is not None and not found:
            rows.append(row)
    return rows, faults


def in_form(form: type[M], place: str, record: Any) -> tuple[M | None, list[str]]:
    """The record in its form if it has it, and its faults."""
    if not isinstance(record, dict):
        return None, ["not a record but " + type(record).__name__]
    found = repeated(record)
    try:
        return form.model_validate({**record, "place": place}), found
    except ValidationError as error:
        return None, found + [_fault(fault) for fault in error.errors(include_url=False)]


def _fault(fault: ErrorDetails) -> str:
    """A fault that pydantic found, as a line."""
    field = f"'{'.'.join(map(str, fault['loc']))}'" if fault["loc"] else "it"
    kind = type(fault["input"]).__name__
    words = {
        "missing": "is missing",
        "string_type": f"is {kind}, not text",
        "int_type": f"is {kind}, not a whole number",
        "list_type": f"is {kind}, not a list",
        "too_short": "is empty",
        "dict_type": f"is {kind}, not an object",
        "model_type": f"is {kind}, not an object",
        "value_error": str(fault.get("ctx", {}).get("error", "")),
    }
    return f"{field} {words.get(fault['type']) or fault['msg']}"
