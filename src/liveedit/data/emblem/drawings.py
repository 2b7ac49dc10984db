"""Emblem's drawings and facts: flags and emoji, each drawn by several artists.

An entity (a country's flag, a thing) was drawn by 4 to 7 artists, that is, icon sets. One artist of
each sort is held out: the embedded model never saw those drawings. Entities are divided into
``train``, ``val`` and ``test`` without overlap, so that no edit, locality probe or image that an
editor is trained on returns in its test. Answers do return where there are few possible ones (a
continent, a kind), but no country, name or capital does. The data card is
``docs/explanation/data-card.md``.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from liveedit.data.emblem.wordings import TEXT_RELATIONS, Relation

__all__ = [
    "CHAIN", "EDITED", "PARTS", "UNSEEN_ARTISTS",
    "Emblem", "Entity", "Part", "Role", "part_of", "role_of",
]  # fmt: skip

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")

UNSEEN_ARTISTS = {"flag": "flagpack", "emoji": "noto"}
"""The artist of each sort that the embedded model was not trained on."""

CHAIN = {
    "country": (
        ("portability_1hop", "capital"),
        ("portability_2hop", "neighbour_capital"),
        ("portability_3hop", "far_capital"),
    ),
    "name": (("portability_1hop", "kind"), ("portability_2hop", "group")),
}
"""Metrics and relations that follow from a drawing showing another entity, nearest first."""

EDITED = {
    "flag": ("country", "capital", "continent", "region", "language", "currency", "demonym"),
    "emoji": ("name", "kind", "group"),
}
"""The relations whose answers are edited; the first says what a drawing shows."""


@dataclass(frozen=True)
class Entity:
    """A country or a thing.

    Arguments:
        id: Sort and code, such as "flag-jp".
        sort: "flag" or "emoji".
        name: Its name in English.
        artists: The artists that drew it.
        facts: Known answers by the name of the fact.
    """

    id: str
    sort: Literal["flag", "emoji"]
    name: str
    artists: tuple[str, ...]
    facts: dict[str, str]

    @property
    def seen_artists(self) -> tuple[str, ...]:
        """The artists whose drawings the embedded model was trained on."""
        return tuple(artist for artist in self.artists if artist != UNSEEN_ARTISTS[self.sort])


Role = Literal["identity_edited", "facts_edited", "untouched"]


def part_of(entity: str) -> Part:
    """The split of an entity id: 50 % train, 4 % val, 46 % test, by a hash of the id."""
    share = _share(entity, 0)
    if share < 0.50:
        return "train"
    return "val" if share < 0.54 else "test"


def role_of(entity: str) -> Role:
    """How the edits of a test change an entity, by a hash of the id.

    ``identity_edited`` (44 %): what it is and all its facts are edited, except one fact that
    follows from the new identity. ``facts_edited`` (44 %): all its facts are edited, never what it
    is. ``untouched`` (12 %): nothing is edited.
    """
    share = _share(entity, 1)
    if share < 0.44:
        return "identity_edited"
    return "facts_edited" if share < 0.88 else "untouched"


def _share(entity: str, which: int) -> float:
    """A number from 0 to 1: the ``which``-th group of 8 hexadecimal digits of the id's SHA-256."""
    digits = hashlib.sha256(entity.encode()).hexdigest()[8 * which : 8 * which + 8]
    return int(digits, 16) / 0x1_0000_0000


class Emblem:
    """The drawings of all entities and the facts about them."""

    def __init__(self) -> None:
        root = files("liveedit.data.emblem") / "assets"
        raw = json.loads((root / "facts.json").read_text(encoding="utf-8"))
        self._archive = zipfile.ZipFile(io.BytesIO((root / "drawings.zip").read_bytes()))
        self.words: tuple[str, ...] = tuple(raw["words"])
        """Names that no entity has: spare answers for training."""
        self.entities: dict[str, Entity] = {}
        """All entities by id."""
        borders: dict[str, list[str]] = {}
        for row in raw["entities"]:
            id = row["id"]
            borders[id] = sorted(row["facts"].pop("borders", []))
            artists = tuple(row["hands"])
            self.entities[id] = Entity(id, row["sort"], row["name"], artists, row["facts"])
        self._add_neighbours(borders)

    def _add_neighbours(self, borders: dict[str, list[str]]) -> None:
        """Add the facts about neighbouring countries; the first neighbour is the first by name."""
        first: dict[str, Entity] = {}
        for id, others in borders.items():
            neighbours = [self.entities[other] for other in others]
            if neighbours:
                first[id] = min(neighbours, key=lambda neighbour: neighbour.name)
        for id, neighbour in first.items():
            facts = self.entities[id].facts
            facts["neighbour"] = neighbour.name
            facts["neighbour_capital"] = neighbour.facts["capital"]
            facts["far_capital"] = first[neighbour.id].facts["capital"]

    def drawing(self, artist: str, entity: str) -> Image.Image:
        """The drawing of an entity id by ``artist``: RGB, 128 pixels square.

        Raises ``KeyError`` if there is none.
        """
        return Image.open(io.BytesIO(self._archive.read(f"{artist}/{entity}.webp"))).convert("RGB")

    def find(self, name: str) -> Image.Image | None:
        """The drawing with the name ``emblem:artist/entity`` of records; ``None`` for any other."""
        key = name.removeprefix("emblem:")
        if f"{key}.webp" not in self._archive.namelist():
            return None
        return self.drawing(*key.split("/"))

    def answer(self, relation: Relation, entity: Entity) -> str | None:
        """The answer to ``relation`` about ``entity``, or ``None`` if it is not known."""
        return entity.name if relation.fact == "name" else entity.facts.get(relation.fact)

    def part(self, part: Part) -> list[Entity]:
        """The entities of one split, in the order of their ids."""
        return [entity for entity in self.entities.values() if part_of(entity.id) == part]

    def text_facts(self, entity: Entity) -> Iterator[tuple[Relation, str, str]]:
        """The facts about an entity that a question without image can ask for.

        Yields (relation, subject, answer).
        """
        for relation in TEXT_RELATIONS.values():
            answer = self.answer(relation, entity)
            if relation.sort == entity.sort and answer:
                of_capital = relation.name == "country_of_capital"
                subject = entity.facts["capital"] if of_capital else entity.name
                yield relation, subject, answer

    @cached_property
    def look_alikes(self) -> dict[str, list[str]]:
        """For each entity id the others of its sort and split, the most similar first.

        Similarity is the correlation of thumbnails of 12 × 12 pixels, averaged over the artists.
        """
        ranked: dict[str, list[str]] = {}
        for sort in ("flag", "emoji"):
            for part in PARTS:
                ranked |= self._ranked([e for e in self.part(part) if e.sort == sort])
        return ranked

    def _ranked(self, entities: list[Entity]) -> dict[str, list[str]]:
        thumbnails = np.stack([self._thumbnail(entity) for entity in entities])
        similarity = thumbnails @ thumbnails.T
        np.fill_diagonal(similarity, -np.inf)
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :-1]
        return {
            entity.id: [entities[index].id for index in row]
            for entity, row in zip(entities, order, strict=True)
        }

    def _thumbnail(self, entity: Entity) -> NDArray[np.float32]:
        """The mean of an entity's drawings in 12 × 12 pixels, standardised, as a vector."""
        drawings = [self.drawing(artist, entity.id) for artist in entity.artists]
        views = [np.asarray(view.resize((12, 12)), dtype=np.float32) for view in drawings]
        mean: NDArray[np.float32] = np.mean(views, axis=0).ravel()
        return np.asarray((mean - mean.mean()) / (mean.std() + 1e-6))
