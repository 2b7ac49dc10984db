"""Corrections in a file: which question about which image should get which answer.

=================  ==============================================================================
field of a row     what it holds
=================  ==============================================================================
``question``       the question
``answer``         the answer that the model should give
``image``          a path, from the file's folder on or absolute, or a data URL; left out for a
                   question without an image; a list, or several columns, for several images
``who``, ``why``   who made the correction, and the reason
``paraphrases``    the question in other words: a list, or several columns ``paraphrase``
``more_images``    other images of the same thing, in the same way
=================  ==============================================================================

A row with a fault is told apart from the others, so that a caller can skip it or refuse all.
"""

import base64
import binascii
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from liveedit.data.corrections.exports import FIELDS, OTHER_NAMES, translated
from liveedit.data.corrections.rows import Row, Unit, file_title, read_rows
from liveedit.data.images import ADDRESS, faults, image_key, open_image
from liveedit.errors import BadInput
from liveedit.registry import nearest
from liveedit.types import Query, check_text, expanded, visible

__all__ = ["BadRow", "Correction", "Corrections", "read_corrections"]

Picture = Image.Image | str | Path
"""A picture, or the path to one."""

TEXTS = ("question", "answer", "who", "why")
NEEDED = ("question", "answer")
NAMED = 20
"""Bad rows that a message names."""


@dataclass(frozen=True, slots=True)
class Correction:
    """One correction.

    Arguments:
        query: The question, its images, and the answer wanted.
        line: Line of the file, or place in a list of JSON, counted from 1.
        who: Who made it.
        why: The reason given.
        paraphrases: The question in other words.
        more_images: Other images of the same thing, one at a time.
        unit: What ``line`` counts.
    """

    query: Query
    line: int
    who: str = ""
    why: str = ""
    paraphrases: tuple[str, ...] = ()
    more_images: tuple[Picture, ...] = ()
    unit: Unit = "line"

    @property
    def images(self) -> tuple[Picture, ...]:
        """Its images, then the other images of the same thing."""
        return (*self.query.images, *self.more_images)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no correction, and why; as text, "line 3: …"."""

    line: int
    message: str
    unit: Unit = "line"

    def __str__(self) -> str:
        return f"{self.unit} {self.line}: {self.message}"


@dataclass(frozen=True, slots=True)
class Corrections:
    """The rows of a file.

    Arguments:
        file: The file.
        rows: Its corrections, in order.
        bad: Rows with a fault, in order.
        left_out: Number of rows of an export that hold no correction.
    """

    file: Path
    rows: tuple[Correction, ...]
    bad: tuple[BadRow, ...] = ()
    left_out: int = 0

    @property
    def title(self) -> str:
        """The file as messages name it."""
        return file_title(self.file)

    def check(self) -> None:
        """Raise :class:`BadInput`, which names the bad rows, if there are any."""
        if not self.bad:
            return
        named = "; ".join(map(str, self.bad[:NAMED]))
        more = len(self.bad) - NAMED
        rest = f"; and {more:,} more bad rows" if more > 0 else ""
        raise BadInput(f"{self.title}, {named}{rest}")


def read_corrections(file: str | Path) -> Corrections:
    """Read the corrections in a file of JSON, JSON lines or CSV; all images are opened once.

    The file ``-`` is standard input. What a model or an editor refuses, such as an answer that is
    too long, only they can tell. Raises :class:`BadInput` for a file that is missing, empty or no
    text, and for a table without a header that names a field.
    """
    path = expanded(file)
    folder = path.parent if path.is_file() else Path()  # standard input lies in no folder
    read: list[Correction | BadRow] = []
    left_out = 0
    for row in read_rows(path):
        try:
            correction = _correction(folder, row)
        except BadInput as error:
            read.append(BadRow(row.number, str(error), row.unit))
            continue
        if correction is None:
            left_out += 1
        else:
            read.append(correction)
    checked = _with_sound_images(read)
    rows = tuple(row for row in checked if isinstance(row, Correction))
    bad = tuple(row for row in checked if isinstance(row, BadRow))
    if not rows and not bad:
        raise BadInput(
            f"{file_title(path)} holds no correction: give rows with a question and an answer"
        )
    return Corrections(path, rows, bad, left_out)


def _correction(folder: Path, row: Row) -> Correction | None:
    """The correction in a row; ``None`` if an export has none there.

    Raises :class:`BadInput` for a fault.
    """
    if row.fault:
        raise BadInput(row.fault)
    given = translated(row.fields)
    if given is None:
        return None
    fields = _known(given)
    texts = {name: _text(name, fields.get(name)) for name in TEXTS}
    for name in NEEDED:
        if not visible(texts[name]):
            raise BadInput(_lacking(name, given))
    images = [_image(folder, value) for value in _listed("image", fields.get("image"))]
    more = [_image(folder, value) for value in _listed("more_images", fields.get("more_images"))]
    paraphrases = _listed("paraphrases", fields.get("paraphrases"))
    return Correction(
        Query(texts["question"], texts["answer"], images),
        row.number,
        texts["who"],
        texts["why"],
        tuple(_text("paraphrases", value) for value in paraphrases),
        tuple(more),
        row.unit,
    )


def _known(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields by their names in :data:`FIELDS`.

    Raises :class:`BadInput` for any other field, and for one that is given by two names.
    """
    fields: dict[str, Any] = {}
    for name, value in given.items():
        plain = name.strip().lower()
        field = OTHER_NAMES.get(plain, plain)
        if field not in FIELDS:
            raise BadInput(f"there is no field {name[:40]!r}: {nearest(plain, FIELDS)}")
        if field in fields:
            raise BadInput(f"the field {field!r} is given twice: leave one of them out")
        fields[field] = value
    return fields


def _lacking(name: str, given: Mapping[str, Any]) -> str:
    """The message for a question or an answer that is empty or left out."""
    if any(key.strip().lower() == name for key in given):
        return f"the {name} is empty: write one"
    return f"it has no {name}: add the field '{name}'"


def _text(name: str, value: Any) -> str:
    """A text without surrounding spaces. Raises :class:`BadInput` for anything else."""
    if value is None:
        return ""
    check_text(repr(name), value)
    return str(value).strip()


def _listed(name: str, value: Any) -> list[Any]:
    """The values of a field that may have several, without empty ones."""
    values = value if isinstance(value, list) else [value]
    for each in values:
        if each is not None and not isinstance(each, str):
            raise BadInput(f"{name!r} holds {type(each).__name__}, not text: put it in quotes")
    return [each for each in values if each is not None and each.strip()]


# Images


def _image(folder: Path, value: str) -> Picture:
    """The path of an image, or the picture in a data URL. Raises :class:`BadInput` for another."""
    text = _text("image", value)
    if text[:5].lower() == "data:":
        return _picture(text)
    if ADDRESS.match(text):
        raise BadInput(f"the image {text[:80]} is a URL: download it, and give the file's path")
    return folder / expanded(text)


def _picture(url: str) -> Image.Image:
    """The picture in a data URL. Raises :class:`BadInput` if it holds none."""
    head, comma, content = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise BadInput("the image is no data URL of base64: write data:image/png;base64,…")
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
        picture.info["name"] = f"{head},…"
        return open_image(picture)
    except (binascii.Error, UnidentifiedImageError):
        raise BadInput("the image in the data URL is broken: encode the file again") from None
    except Image.DecompressionBombError:
        raise BadInput("the image in the data URL has too many pixels: make it smaller") from None


def _with_sound_images(read: Sequence[Correction | BadRow]) -> list[Correction | BadRow]:
    """The rows, where those with an image that cannot be opened are bad rows."""
    paths: dict[int | str, Path] = {}
    for row in read:
        paths |= {image_key(image): image for image in _paths(row)}
    found = dict(zip(paths, faults(paths.values(), open_image), strict=True))
    checked: list[Correction | BadRow] = []
    for row in read:
        wrong = [found[image_key(image)] for image in _paths(row) if found[image_key(image)]]
        checked.append(BadRow(row.line, wrong[0], row.unit) if wrong else row)
    return checked


def _paths(row: Correction | BadRow) -> Iterable[Path]:
    """The images of a correction that are paths."""
    if isinstance(row, BadRow):
        return ()
    return [image for image in row.images if isinstance(image, Path)]
