"""The background: unrelated queries, which no edit should change.

They show what a model makes of inputs without an edit, and what an edit does where it should not.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image

from liveedit.data.emblem.cases import shared_emblem
from liveedit.data.emblem.drawings import Part
from liveedit.data.emblem.wordings import IMAGE_RELATIONS, wordings
from liveedit.data.images import open_image
from liveedit.errors import BadInput
from liveedit.types import Query, expanded

__all__ = ["ASKED_ONCE", "RELATIONS", "background_queries"]

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
    the package, of the entities in ``part``. At ``most`` so many are taken, drawn at random.
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


def _from_folder(folder: Path, most: int) -> Iterator[tuple[str, Image.Image]]:
    """At ``most`` so many images of a folder.

    Raises :class:`BadInput` where there are too few.
    """
    if not folder.is_dir():
        raise BadInput(f"no folder {folder}: give one with images of what users ask about")
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if len(found) < LEAST:
        raise BadInput(
            f"{folder} has {len(found)} images, too few for a threshold: give at least {LEAST}, "
            "or leave background empty"
        )
    for file in random.Random(0).sample(found, min(most, len(found))):
        yield "", open_image(file)
