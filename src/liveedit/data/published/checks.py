"""Checks of a published benchmark before anything runs on it: every record and every image."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from liveedit.data.images import faults, open_image
from liveedit.data.published.locations import Location
from liveedit.data.published.sources import Source
from liveedit.errors import BadInput
from liveedit.types import Query

__all__ = ["Check", "Look", "Progress", "Read", "check"]

Progress = Callable[[int, int], None]
"""Called with the number of images checked so far, and the number of all."""
Look = Callable[[Path], object]
"""Opens an image. Raises :class:`BadInput` for an unusable one."""
Read = Callable[[Query], object]
"""Encodes a question and its answer. Raises :class:`BadInput` for an unusable text."""


@dataclass(frozen=True, slots=True)
class Check:
    """Result of a check.

    Arguments:
        records: Number of valid records by file.
        images: Number of distinct images.
        notes: Differences from the published files, which do no harm, one line each.
        problems: Faults that must be repaired, one line each.
    """

    records: dict[str, int]
    images: int
    notes: list[str]
    problems: list[str]


def check(
    source: Source,
    location: Location,
    progress: Progress | None = None,
    look: Look = open_image,
    read: Read | None = None,
) -> Check:
    """Read all records of a benchmark, then open all its images, then encode all its questions.

    Arguments:
        source: The benchmark.
        location: Its files on this machine.
        progress: Called after each image.
        look: Opens an image; by default it is decoded.
        read: Encodes a question and its answer; ``None``: texts are not encoded.

    Raises :class:`BadInput` only for an annotation file that is missing, truncated or no list of
    records.
    """
    records: dict[str, int] = {}
    notes: list[str] = []
    problems: list[str] = []
    mentions: dict[str, str] = {}
    asked: list[tuple[str, Query]] = []
    for role, file in location.files.items():
        rows, wrong = source.parse(file)
        records[file.name] = len(rows)
        problems += wrong
        total = len(rows) + len({fault.partition(":")[0] for fault in wrong})
        published = source.counts.get(role, total)
        if total != published:
            notes.append(f"{file.name} has {total:,} records, the published one {published:,}")
        for row in rows:
            where = f"{file.name}, record {row.number}"
            for question in row.questions:
                shown = location.images / question.image if question.image else None
                if shown:
                    mentions.setdefault(question.image, f"{where}: '{question.image_field}'")
                query = Query(question.question, question.answer, shown)
                asked.append((f"{where}: {question.fields}", query))
    problems += _image_problems(location.images, mentions, progress, look)
    if read is not None:
        problems += _text_problems(asked, read)
    return Check(records, len(mentions), notes, problems)


def _text_problems(asked: Iterable[tuple[str, Query]], read: Read) -> list[str]:
    """One line for each question and answer that cannot be used."""
    problems = []
    for where, query in asked:
        try:
            read(query)
        except BadInput as error:
            problems.append(f"{where}: {error}")
    return list(dict.fromkeys(problems))  # a question about two images is named once


def _image_problems(
    folder: Path, mentions: dict[str, str], progress: Progress | None, look: Look
) -> list[str]:
    """One line for each image that is missing or cannot be used, in the order of ``mentions``."""
    if mentions and not any((folder / path).exists() for path in mentions):
        first = next(iter(mentions))
        return [
            f"none of {len(mentions):,} images is in {folder}: give the folder that holds {first}"
        ]
    problems = []
    found = faults([folder / path for path in mentions], look)
    for done, (mention, fault) in enumerate(zip(mentions.values(), found, strict=True), start=1):
        if fault:
            problems.append(f"{mention}: {fault}")
        if progress is not None:
            progress(done, len(mentions))
    return problems
