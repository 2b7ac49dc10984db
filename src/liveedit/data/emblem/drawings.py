"""Emblem: flags and emoji drawn by several hands, with facts about them; the benchmark that ships
with the package.

An entity (a country's flag, a thing) was drawn by 4 to 7 *hands* (icon sets). One hand of each sort
is held out: the embedded model never saw its drawings. Entities are split into ``train``, ``val``
and ``test`` with no overlap: no edit, locality probe or image that an editor is trained on returns
in its test. Answers do where there are few to choose from (a continent, a kind), not those to
country, name and capital. ``docs/explanation/data-card.md`` is the data card.
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
from PIL import Image

from liveedit.data.emblem.wordings import TEXT_RELATIONS, Relation

__all__ = ["CHAIN", "EDITED", "UNSEEN_HANDS", "Emblem", "Entity", "Part", "part_of", "role_of"]

Part = Literal["train", "val", "test"]

UNSEEN_HANDS = {"flag": "flagpack", "emoji": "noto"}
"""The hand of each sort that the embedded model was not trained on."""

CHAIN = {
    "country": (("portability_1hop", "capital"), ("portability_2hop", "neighbour_capital"), ("portability_3hop", "far_capital")),
    "name": (("portability_1hop", "kind"), ("portability_2hop", "group")),
}  # fmt: skip
"""What follows from being told that a drawing shows another entity, by number of hops."""

EDITED = {
    "flag": ("country", "capital", "continent", "region", "language", "currency", "demonym"),
    "emoji": ("name", "kind", "group"),
}
"""The relations whose answers are edited."""


@dataclass(frozen=True)
class Entity:
    """A country or a thing: its name, the hands that drew it, and what is known about it."""

    id: str
    sort: Literal["flag", "emoji"]
    name: str
    hands: tuple[str, ...]
    facts: dict[str, str]

    @property
    def seen_hands(self) -> tuple[str, ...]:
        """The hands whose drawings the embedded model was trained on."""
        return tuple(hand for hand in self.hands if hand != UNSEEN_HANDS[self.sort])


Role = Literal["renamed", "retold", "bystander"]


def part_of(entity: str) -> Part:
    """Which split an entity id belongs to: 50 % train, 4 % val, 46 % test, by a hash of the id."""
    share = _share(entity, 0)
    return "train" if share < 0.50 else "val" if share < 0.54 else "test"


def role_of(entity: str) -> Role:
    """What a pool of test edits does to an entity, by a hash of the id.

    44 % are *renamed*: what they are is edited, and all their facts but one that follows from it.
    44 % are *retold*: all their facts are edited, never what they are. 12 % are *bystanders*, of
    which nothing is edited.
    """
    share = _share(entity, 1)
    return "renamed" if share < 0.44 else "retold" if share < 0.88 else "bystander"


def _share(entity: str, which: int) -> float:
    """The ``which``-th number in 0..1 that the hash of an id gives."""
    return (
        int(hashlib.sha256(entity.encode()).hexdigest()[8 * which : 8 * which + 8], 16)
        / 0x1_0000_0000
    )


class Emblem:
    """The drawings, the facts and the cases made of them."""

    def __init__(self) -> None:
        root = files("liveedit.data.emblem") / "assets"
        raw = json.loads((root / "facts.json").read_text(encoding="utf-8"))
        self._archive = zipfile.ZipFile(io.BytesIO((root / "drawings.zip").read_bytes()))
        self.words: tuple[str, ...] = tuple(raw["words"])
        """Names that no entity has: spare answers for training."""
        borders = {row["id"]: sorted(row["facts"].pop("borders", [])) for row in raw["entities"]}
        self.entities: dict[str, Entity] = {
            row["id"]: Entity(
                row["id"], row["sort"], row["name"], tuple(row["hands"]), row["facts"]
            )
            for row in raw["entities"]
        }
        self._add_neighbours(borders)

    def _add_neighbours(self, borders: dict[str, list[str]]) -> None:
        """Add the facts that lead through borders; the first neighbour is the first by name."""
        first = {
            id: min((self.entities[other] for other in others), key=lambda other: other.name)
            for id, others in borders.items()
            if others
        }
        for id, neighbour in first.items():
            facts = self.entities[id].facts
            facts["neighbour"], facts["neighbour_capital"] = (
                neighbour.name,
                neighbour.facts["capital"],
            )
            facts["far_capital"] = first[neighbour.id].facts["capital"]

    def drawing(self, hand: str, entity: str) -> Image.Image:
        """The drawing of ``entity`` by ``hand``: RGB, 128 pixels square. Raises ``KeyError`` if
        there is none.
        """
        return Image.open(io.BytesIO(self._archive.read(f"{hand}/{entity}.webp"))).convert("RGB")

    def find(self, name: str) -> Image.Image | None:
        """The drawing that a record names as ``emblem:hand/entity``, ``None`` for any other name."""
        key = name.removeprefix("emblem:")
        return self.drawing(*key.split("/")) if f"{key}.webp" in self._archive.namelist() else None

    def answer(self, relation: Relation, entity: Entity) -> str | None:
        """What ``relation`` asks about ``entity``, or ``None`` if that is not known."""
        return entity.name if relation.fact == "name" else entity.facts.get(relation.fact)

    def part(self, part: Part) -> list[Entity]:
        """The entities of one split, in the order of their ids."""
        return [entity for entity in self.entities.values() if part_of(entity.id) == part]

    def text_facts(self, entity: Entity) -> Iterator[tuple[Relation, str, str]]:
        """(relation, subject, answer) of each fact about ``entity`` that can be asked without an
        image.
        """
        for relation in TEXT_RELATIONS.values():
            if relation.sort == entity.sort and (answer := self.answer(relation, entity)):
                subject = (
                    entity.facts["capital"]
                    if relation.name == "country_of_capital"
                    else entity.name
                )
                yield relation, subject, answer

    @cached_property
    def look_alikes(self) -> dict[str, list[str]]:
        """Entities of the same sort and split, the most similar drawing first (cosine of 12×12
        pixels, mean over hands).
        """
        return {
            id: others
            for sort in ("flag", "emoji")
            for part in ("train", "val", "test")
            for id, others in self._rank([e for e in self.part(part) if e.sort == sort]).items()
        }  # fmt: skip

    def _rank(self, entities: list[Entity]) -> dict[str, list[str]]:
        thumbs = []
        for entity in entities:
            views = [
                np.asarray(self.drawing(hand, entity.id).resize((12, 12)), dtype=np.float32)
                for hand in entity.hands
            ]
            thumb = np.mean(views, axis=0).ravel()
            thumbs.append((thumb - thumb.mean()) / (thumb.std() + 1e-6))
        similarity = np.stack(thumbs) @ np.stack(thumbs).T
        np.fill_diagonal(similarity, -np.inf)
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :-1]
        return {
            entity.id: [entities[j].id for j in row]
            for entity, row in zip(entities, order, strict=True)
        }
