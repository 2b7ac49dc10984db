"""Emblem's cases in VLKEB's form: one edit of an answer about a drawing, and the probes around it.

Every case edits one (entity, relation): the drawing by one seen artist, in one seen wording, gets
the answer that belongs to another entity of the same sort and split. Its probes are

=========================  ==========================================================  =========
metric                     question                                                    wanted
=========================  ==========================================================  =========
reliability                the edit itself                                             new
text_generality            the same drawing, in a wording that no training uses        new
                           (in training: another seen wording)
image_generality           the entity's drawing by another seen artist                 new
image_generality_unseen    the entity's drawing by the held-out artist                 new
image_locality             a question about a drawing of another entity                as before
text_locality              a fact about another entity, without an image               as before
portability_1hop … 3hop    a fact that follows from the drawing showing the other      its answer
                           entity
same_image_other_question  the same drawing, a question whose answer does not follow   as before
                           from the edit
look_alike_image           the same question about the most similar drawing whose      as before
                           answer must stay
question_alone             the edit's question without an image                        as before
image_alone                the edited drawing without a question                       as before
=========================  ==========================================================  =========

The last four are hard probes. Portability belongs to edits of what the drawing shows (country,
name), ``same_image_other_question`` to edits of one fact about it.

All edits of the test fit into one bank without contradicting each other or a probe. The fact that a
probe asks for is edited by its own case or by none. Answers that must stay as before are about
facts that no edit of the split changes (:func:`edited_facts`). In training every fact of every
entity is edited; its batches are small, and ``Query.fact`` tells which edits are unrelated.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from PIL.Image import Image

from liveedit.data.emblem.drawings import (
    CHAIN,
    EDITED,
    UNSEEN_ARTISTS,
    Emblem,
    Entity,
    Part,
    role_of,
)
from liveedit.data.emblem.wordings import IMAGE_RELATIONS, Relation, wordings
from liveedit.types import Case, Probe, Query

__all__ = [
    "correction_cases",
    "corrections",
    "counterfactual_cases",
    "counterfactuals",
    "edited_facts",
]

Fact = tuple[str, str]
"""An entity's id and a relation's name."""

SPARE = 0.4
"""Share of the training edits of an entity's name whose new answer is a spare word.

Spare words make more answers available than there are entities.
"""


@cache
def shared_emblem() -> Emblem:
    """The drawings, read and compared once a process."""
    return Emblem()


def counterfactuals(part: Part, seed: int) -> list[Case]:
    """The cases of the benchmark "emblem"."""
    return counterfactual_cases(shared_emblem(), part, seed=seed)


def corrections(part: Part, seed: int) -> list[Case]:
    """The cases of the benchmark "emblem-corrections": the embedded model's measured mistakes."""
    file = files("liveedit.data.emblem") / "assets" / "wrong.json"
    wrong = [(row[0], row[1], row[2]) for row in json.loads(file.read_text(encoding="utf-8"))]
    return correction_cases(shared_emblem(), part, wrong, seed=seed)


def counterfactual_cases(emblem: Emblem, part: Part, *, seed: int = 0) -> list[Case]:
    """One case for each fact of :func:`edited_facts`, in an order shuffled by ``seed``."""
    facts = edited_facts(emblem, part)
    edited = frozenset[Fact]() if part == "train" else frozenset(facts)
    maker = _CaseMaker(emblem, part, random.Random(f"{part} {seed}"), edited)
    maker.random.shuffle(facts)
    return [maker.case(emblem.entities[id], IMAGE_RELATIONS[relation]) for id, relation in facts]


def edited_facts(emblem: Emblem, part: Part) -> list[Fact]:
    """The facts of a split that are edited.

    These are all facts in training, and otherwise the facts that an entity's role
    (:func:`role_of`) allows to edit together.
    """
    facts = list[Fact]()
    for entity in emblem.part(part):
        relations = EDITED[entity.sort] if part == "train" else _edited_together(entity)
        facts += [(entity.id, relation) for relation in relations]
    return facts


def _edited_together(entity: Entity) -> list[str]:
    """The relations of an entity that one bank of edits changes."""
    identity, *facts = EDITED[entity.sort]
    role = role_of(entity.id)
    if role == "untouched":
        return []
    if role == "facts_edited":
        return facts
    # a flag's capital, and a thing's kind or group, are left to follow from the new name
    follows = "capital" if entity.sort == "flag" else facts[len(entity.name) % 2]
    return [identity, *(fact for fact in facts if fact != follows)]


def correction_cases(
    emblem: Emblem, part: Part, wrong: Sequence[tuple[str, str, str]], *, seed: int = 0
) -> list[Case]:
    """Cases that edit wrong answers into the true ones, in an order shuffled by ``seed``.

    ``wrong`` are the (artist, entity, relation) that the model answers wrongly; those of other
    splits are skipped. Portability probes ask for true facts about the entity itself.
    """
    members = {entity.id for entity in emblem.part(part)}
    chosen = [row for row in wrong if row[1] in members]
    edited = frozenset((id, relation) for _, id, relation in chosen)
    maker = _CaseMaker(emblem, part, random.Random(f"corrections {part} {seed}"), edited)
    cases = [
        maker.case(emblem.entities[id], IMAGE_RELATIONS[relation], artist=artist, correct=True)
        for artist, id, relation in chosen
    ]
    maker.random.shuffle(cases)
    return cases


@dataclass
class _CaseMaker:
    """Maker of cases, whose random choices all come from ``random``.

    ``edited`` are the facts that no other question may touch, those of all cases together. It is
    empty in training, where a batch is edited at a time.
    """

    emblem: Emblem
    part: Part
    random: random.Random
    edited: frozenset[Fact]

    def __post_init__(self) -> None:
        self.entities: list[Entity] = self.emblem.part(self.part)
        self.unedited: dict[str, list[str]] = {}
        """By entity, the relations whose answers must stay; entities without any are left out."""
        for entity in self.entities:
            if relations := self._unedited(entity):
                self.unedited[entity.id] = relations
        self._images: dict[tuple[str, str], Image] = {}

    def _unedited(self, entity: Entity) -> list[str]:
        """The relations of an entity that no edit changes, directly or by changing what it is."""
        identity = EDITED[entity.sort][0]
        if (entity.id, identity) in self.edited:
            return []
        return [
            relation for relation in EDITED[entity.sort] if (entity.id, relation) not in self.edited
        ]

    def case(
        self, entity: Entity, relation: Relation, *, artist: str = "", correct: bool = False
    ) -> Case:
        """The case that edits one fact; ``correct``: to the true answer, else to another one.

        The artist is drawn at random where none is given.
        """
        artist = artist or self.random.choice(entity.seen_artists)
        become, target = self._new_answer(entity, relation, correct=correct)
        prompt = self.random.choice(wordings(relation, "seen"))
        edit = Query(prompt, target, self._image(artist, entity), f"{entity.id}:{relation.name}")
        probes = [
            Probe("reliability", edit),
            Probe("text_generality", replace(edit, prompt=self._reworded(relation, prompt))),
            *self._image_generality(entity, artist, edit),
            Probe("image_locality", self._another_drawing(entity), "before"),
            Probe("text_locality", self._text_fact(entity, become), "before"),
            *self._portability(relation, edit, become),
            *self._hard(entity, relation, artist, edit),
        ]
        kind = "correct" if correct else "edit"
        return Case(f"{kind}:{entity.id}:{relation.name}:{artist}", (edit,), tuple(probes))

    def _new_answer(
        self, entity: Entity, relation: Relation, *, correct: bool
    ) -> tuple[Entity | None, str]:
        """The new answer and the entity that has it; ``None`` where the answer is a spare word."""
        known = self.emblem.answer(relation, entity)
        if correct:
            return entity, str(known)
        others = [
            other
            for other in self.entities
            if other.sort == entity.sort and self.emblem.answer(relation, other) != known
        ]
        become = self.random.choice(others)
        may_be_spare = self.part == "train" and relation.hops == 0
        if may_be_spare and self.random.random() < SPARE:
            return None, self.random.choice(self.emblem.words)
        return become, str(self.emblem.answer(relation, become))

    def _reworded(self, relation: Relation, prompt: str) -> str:
        """The question in an unseen wording; in training in another seen one."""
        others = wordings(relation, "seen" if self.part == "train" else "unseen")
        return self.random.choice([other for other in others if other != prompt])

    def _image(self, artist: str, entity: Entity) -> Image:
        """The drawing, the same object for every call, so that it is encoded once."""
        key = artist, entity.id
        if key not in self._images:
            image = self.emblem.drawing(*key)
            image.info["name"] = f"emblem:{artist}/{entity.id}"
            self._images[key] = image
        return self._images[key]

    def _image_generality(self, entity: Entity, artist: str, edit: Query) -> list[Probe]:
        """The edit's question about drawings by another seen artist and by the held-out one."""
        seen = [other for other in entity.seen_artists if other != artist]
        chosen = {
            "image_generality": self.random.choice(seen),
            "image_generality_unseen": UNSEEN_ARTISTS[entity.sort],
        }
        return [
            Probe(metric, replace(edit, image=self._image(other, entity)), note=other)
            for metric, other in chosen.items()
            if other != artist
        ]

    def _another_drawing(self, entity: Entity) -> Query:
        """A question, whose answer must stay, about a drawing of another entity."""
        others = [id for id in self.unedited if id != entity.id]
        other = self.emblem.entities[self.random.choice(others)]
        relation = IMAGE_RELATIONS[self.random.choice(self.unedited[other.id])]
        return self._question(other, self.random.choice(other.seen_artists), relation)

    def _question(self, entity: Entity, artist: str, relation: Relation) -> Query:
        """A question about a drawing in a random seen wording, with its true answer."""
        answer = str(self.emblem.answer(relation, entity))
        prompt = self.random.choice(wordings(relation, "seen"))
        return Query(prompt, answer, self._image(artist, entity), f"{entity.id}:{relation.name}")

    def _text_fact(self, entity: Entity, become: Entity | None) -> Query:
        """A question without an image about a fact of some other entity than these two."""
        excluded = {entity.id, (become or entity).id}
        other = self.random.choice([other for other in self.entities if other.id not in excluded])
        relation, subject, answer = self.random.choice(list(self.emblem.text_facts(other)))
        return Query(self.random.choice(wordings(relation, "seen", subject=subject)), answer)

    def _portability(self, relation: Relation, edit: Query, become: Entity | None) -> list[Probe]:
        """Questions about the drawing whose answers would be true if it showed ``become``."""
        if become is None:
            return []
        id = edit.fact.partition(":")[0]
        probes = []
        for metric, name in CHAIN.get(relation.name, ()):
            follows = IMAGE_RELATIONS[name]
            answer = self.emblem.answer(follows, become)
            if answer and (id, name) not in self.edited:
                prompt = self.random.choice(wordings(follows, "seen"))
                probes.append(Probe(metric, Query(prompt, answer, edit.image, f"{id}:{name}")))
        return probes

    def _hard(self, entity: Entity, relation: Relation, artist: str, edit: Query) -> list[Probe]:
        """The four hard probes; the last two only where the split has a suitable fact."""
        probes = [
            Probe("question_alone", Query(edit.prompt, edit.target), "before"),
            Probe("image_alone", Query("", image=edit.image), "before"),
        ]
        if twin := self._look_alike(entity, relation):
            drawn_too = artist in twin.artists
            by = artist if drawn_too else self.random.choice(twin.seen_artists)
            asked = replace(self._question(twin, by, relation), prompt=edit.prompt)
            probes.append(Probe("look_alike_image", asked, "before", note=twin.name))
        others = [name for name in self.unedited.get(entity.id, ()) if name != relation.name]
        if others and relation.hops > 0:
            other = IMAGE_RELATIONS[self.random.choice(others)]
            asked = self._question(entity, artist, other)
            probes.append(Probe("same_image_other_question", asked, "before"))
        return probes

    def _look_alike(self, entity: Entity, relation: Relation) -> Entity | None:
        """The most similar entity whose answer must stay, if there is any."""
        for id in self.emblem.look_alikes[entity.id]:
            if relation.name in self.unedited.get(id, ()):
                return self.emblem.entities[id]
        return None
