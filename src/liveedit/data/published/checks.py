"""Looking through a published benchmark before anything runs on it: every record, every image."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from liveedit.data.images import faults, open_image
from liveedit.data.published.annotations import IMAGES, Annotation, parse
from liveedit.data.published.places import Place
from liveedit.data.published.sources import Source
from liveedit.errors import BadInput
from liveedit.types import Query

__all__ = ["Check", "Look", "Read", "check"]

Progress = Callable[[int, int], None]
"""Told how many images are looked at, and how many there are."""
Look = Callable[[Path], object]
"""Looks at an image. Raises :class:`BadInput` for one that it cannot use."""
Read = Callable[[Query], object]
"""Reads a question and its answer. Raises :class:`BadInput` for a text that it cannot use."""
ASKED = (
    ("src", "alt", "image"), ("rephrase", "alt", "image"), ("src", "alt", "image_rephrase"),
    ("loc", "loc_ans", ""), ("m_loc_q", "m_loc_a", "m_loc"),
)  # fmt: skip
"""The fields that hold a question, its answer and the image that it is about, if any."""


@dataclass(frozen=True, slots=True)
class Check:
    """What was found: sound records by file, distinct images, and a line on each thing that differs
    or is wrong.

    ``notes`` are differences from what was published, which hinder nothing; ``problems`` must be
    mended.
    """

    records: dict[str, int]
    images: int
    notes: list[str]
    problems: list[str]


def check(
    source: Source,
    place: Place,
    progress: Progress | None = None,
    look: Look = open_image,
    read: Read | None = None,
) -> Check:
    """Read all records and have ``look`` look at all images of a benchmark, which
    :func:`open_image` decodes.

    Then ``read``, if given, reads all questions. Raises :class:`BadInput` only for an annotation
    file that is missing, cut off or no list of records.
    """
    records, notes, problems = {}, [], []
    mentions: dict[str, str] = {}
    asked: list[tuple[str, Query]] = []
    for role, file in place.files.items():
        rows, wrong = parse(file)
        records[file.name] = len(rows)
        problems += wrong
        total, published = (
            len(rows) + len({fault.partition(":")[0] for fault in wrong}),
            source.counts.get(role),
        )
        if published is not None and total != published:
            notes.append(f"{file.name} has {total:,} records, the published one {published:,}")
        for row in rows:
            mentions |= {
                path: mention for path, mention in _mentions(file, row) if path not in mentions
            }
            asked += _asked(file, row, place.images)
    problems += _image_problems(place.images, mentions, progress, look)
    if read is not None:
        problems += _text_problems(asked, read)
    return Check(records, len(mentions), notes, problems)


def _mentions(file: Path, row: Annotation) -> list[tuple[str, str]]:
    """Each image of a record, and where it is named."""
    return [
        (path, f"{file.name}, record {row.number}: '{name}'")
        for name, path in zip(IMAGES, row.images, strict=True)
    ]


def _asked(file: Path, row: Annotation, images: Path) -> Iterator[tuple[str, Query]]:
    """Each question of a record with its answer, and where they are."""
    where = f"{file.name}, record {row.number}"
    for question, answer, image in ASKED:
        shown = images / getattr(row, image) if image else None
        yield (
            f"{where}: '{question}' and '{answer}'",
            Query(getattr(row, question), getattr(row, answer), shown),
        )
    for pair in row.hops.values():
        yield f"{where}: 'port_new'", Query(*pair, images / row.image)
    if row.fact is not None:
        yield f"{where}: 'port_new'", Query(*row.fact)


def _text_problems(asked: Iterable[tuple[str, Query]], read: Read) -> list[str]:
    """A line on each question and answer that cannot be used."""
    problems = []
    for where, query in asked:
        try:
            read(query)
        except BadInput as error:
            problems.append(f"{where}: {error}")
    return list(dict.fromkeys(problems))  # of a question about two images one


def _image_problems(
    folder: Path, mentions: dict[str, str], progress: Progress | None, look: Look
) -> list[str]:
    """A line on each image that is missing or cannot be used, in the order in which they are named."""
    if mentions and not any((folder / path).exists() for path in mentions):
        return [
            f"none of {len(mentions):,} images is in {folder}: give the folder that holds {next(iter(mentions))}"
        ]
    problems = []
    found = faults([folder / path for path in mentions], look)
    for done, (mention, fault) in enumerate(zip(mentions.values(), found, strict=True), start=1):
        if fault:
            problems.append(f"{mention}: {fault}")
        if progress is not None:
            progress(done, len(mentions))
    return problems
