"""The background: unrelated queries, which no edit should change.

They show what a model makes of inputs without an edit, and what an edit does where it should not.
"""

import logging
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from PIL import Image

from liveedit.data.emblem.cases import shared_emblem
from liveedit.data.emblem.drawings import Part
from liveedit.data.emblem.wordings import IMAGE_RELATIONS, wordings
from liveedit.data.images import open_image
from liveedit.errors import BadInput
from liveedit.types import Query, expanded

__all__ = ["ASKED_ONCE", "RELATIONS", "background_queries", "check_background"]

LOG = logging.getLogger(__name__)

LEAST = 16
"""Images that a background must have."""
RELATIONS = {
    sort: [name for name, relation in IMAGE_RELATIONS.items() if relation.sort == sort]
    for sort in ("emoji", "flag")
}
"""The relations that are asked about a sort of drawing, which are hard to tell apart."""
ASKED_ONCE = ("common", "alone", "apart")
"""The queries of the background that are unrelated to each other."""
ASKED_ALL = 48
"""Images of each sort that are asked all questions."""
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def background_queries(folder: str, most: int, part: Part = "train") -> dict[str, list[Query]]:
    """The queries of the background.

    A quarter of the images are asked one question, under "common", and this question is asked
    without them, under "alone". The others are asked one question each, under "apart"; some of them
    all questions of a sort, one image after the other, in the order of :data:`RELATIONS`, under
    "flag" and "emoji". ``folder`` holds the user's images; empty stands for drawings that ship with
    the package, of the entities in ``part``. At ``most`` so many are taken, drawn at random; those
    that cannot be read are left out, with a warning. Raises :class:`BadInput` as
    :func:`check_background`, and where too few can be read.
    """
    chance = random.Random(0)
    queries: dict[str, list[Query]] = {name: [] for name in (*ASKED_ONCE, *RELATIONS)}
    images = _from_folder(expanded(folder), most) if folder else _shipped(most, part)
    for number, (known, image) in enumerate(images):
        sort = known or chance.choice(sorted(RELATIONS))
        asked = _question(number, chance.choice(RELATIONS[sort]), image, chance)
        if number % 4 == 0:
            queries["common"].append(asked)
            queries["alone"].append(replace(asked, image=None))
            continue
        queries["apart"].append(asked)
        if len(queries[sort]) < ASKED_ALL * len(RELATIONS[sort]):
            for relation in RELATIONS[sort]:
                queries[sort].append(_question(number, relation, image, chance))
    return queries


def _question(number: int, relation: str, image: Image.Image, chance: random.Random) -> Query:
    """A relation's question about image ``number`` in some wording."""
    wording = chance.choice(wordings(IMAGE_RELATIONS[relation], "seen"))
    return Query(wording, image=image, fact=f"{number}:{relation}")


def _shipped(most: int, part: Part) -> Iterator[tuple[str, Image.Image]]:
    """Drawings of entities, each by one artist, with their sort."""
    emblem = shared_emblem()
    chance = random.Random(0)
    entities = emblem.part(part)
    for entity in chance.sample(entities, min(most, len(entities))):
        yield entity.sort, emblem.drawing(chance.choice(entity.seen_artists), entity.id)


def check_background(folder: str) -> None:
    """Raise :class:`BadInput` for a folder that does not exist or has too few images."""
    if folder:
        _files(expanded(folder))


def _files(folder: Path) -> list[Path]:
    """The images in a folder and below, which have not been opened."""
    if not folder.is_dir():
        raise BadInput(f"no folder {folder}: give one with images of what users ask about")
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    _check_enough(folder, len(found), LEAST)
    return found


def _check_enough(folder: Path, count: int, least: int) -> None:
    """Raise :class:`BadInput` where a folder has fewer images than a background must have."""
    if count < least:
        raise BadInput(
            f"{folder} has {count} images, too few for a threshold: give at least {LEAST}, "
            "or leave background empty"
        )


def _from_folder(folder: Path, most: int) -> Iterator[tuple[str, Image.Image]]:
    """At ``most`` so many images of a folder; others take the place of those that are broken."""
    found = _files(folder)
    drawn = random.Random(0).sample(found, min(most, len(found)))
    spare = sorted(set(found) - set(drawn))
    read = 0
    faults: list[str] = []
    for file in chain(drawn, spare):
        if read == most:
            break
        try:
            image = open_image(file)
        except BadInput as error:
            faults.append(str(error))
            continue
        read += 1
        yield "", image
    if faults:
        LOG.warning(
            "left out %d images of the background that cannot be read; the first: %s",
            len(faults),
            faults[0],
        )
    _check_enough(folder, read, min(LEAST, most))
