"""Emblem's cases in VLKEB's form: an edit of what a drawing is answered to be, and what to ask
afterwards.

Every case edits one (entity, relation): the drawing by one seen hand, asked in one seen wording,
gets the answer that another entity of the same sort and split has there. Then it is asked again

==========================  ========================================================================
======== metric                      question
wanted ==========================
========================================================================  ======== reliability
the edit itself                                                           new text_generality
the same drawing, in a wording that no training uses (in training: another)   new image_generality
another seen hand's drawing of the entity                                 new
image_generality_unseen     the held-out hand's drawing of the entity
new image_locality              another entity's drawing, asked about anything
as before text_locality               a fact about another entity, without an image
as before portability_1hop … 3hop     what follows from the drawing showing the other entity
follows same_image_other_question   the same drawing, asked something that does not follow from the
edit      as before look_alike_image            the most similar drawing that must stay, the same
question                as before question_alone              the edit's question without an image
as before image_alone                 the edited drawing without a question
as before ==========================
========================================================================  ========

The last four are hard probes. Portability belongs to edits of what the drawing shows (country,
name), the other question to edits of one fact about it.

All test edits fit into one pool without contradicting each other or a probe: what a probe asks is
edited by its own case or by none, and what must stay as before is asked of entities that the whole
pool leaves alone in this respect (:func:`pool`). Training cases come in small batches, where
``Query.fact`` tells who is a stranger to whom; of their entities every fact is edited.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

from PIL.Image import Image

from liveedit.data.emblem.drawings import CHAIN, EDITED, UNSEEN_HANDS, Emblem, Entity, Part, role_of
from liveedit.data.emblem.wordings import IMAGE_RELATIONS, Relation, wordings
from liveedit.types import Case, Probe, Query

__all__ = ["correction_cases", "corrections", "counterfactual_cases", "counterfactuals", "pool"]

Fact = tuple[str, str]
"""An entity's id and a relation's name."""

SPARE = 0.4
"""Share of training edits of what a drawing shows whose answer is a spare word: more answers than
there are entities.
"""


def counterfactuals(part: Part, seed: int) -> list[Case]:
    """The benchmark "emblem"."""
    return counterfactual_cases(Emblem(), part, seed=seed)


def corrections(part: Part, seed: int) -> list[Case]:
    """The benchmark "emblem-corrections": what the embedded model was measured to answer wrongly."""
    file = files("liveedit.data.emblem") / "assets" / "wrong.json"
    wrong = [(row[0], row[1], row[2]) for row in json.loads(file.read_text(encoding="utf-8"))]
    return correction_cases(Emblem(), part, wrong, seed=seed)


def counterfactual_cases(emblem: Emblem, part: Part, *, seed: int = 0) -> list[Case]:
    """One case for each fact of :func:`pool`, in an order shuffled by ``seed``."""
    edited = pool(emblem, part)
    maker = _Maker(
        emblem,
        part,
        random.Random(f"{part} {seed}"),
        frozenset() if part == "train" else frozenset(edited),
    )
    maker.random.shuffle(edited)
    return [maker.case(emblem.entities[id], IMAGE_RELATIONS[relation]) for id, relation in edited]


def pool(emblem: Emblem, part: Part) -> list[Fact]:
    """The facts of a split that are edited: all in training, otherwise those that :func:`role_of`
    gives.
    """
    return [
        (entity.id, relation)
        for entity in emblem.part(part)
        for relation in (EDITED[entity.sort] if part == "train" else _edited(entity))
    ]


def _edited(entity: Entity) -> list[str]:
    """The relations of an entity that are edited together."""
    identity, *facts = EDITED[entity.sort]
    role = role_of(entity.id)
    if (
        role == "renamed"
    ):  # a flag's capital, and a thing's kind or group, are left to follow from the new name
        follows = "capital" if entity.sort == "flag" else facts[len(entity.name) % 2]
        return [identity, *(fact for fact in facts if fact != follows)]
    return facts if role == "retold" else []


def correction_cases(
    emblem: Emblem, part: Part, wrong: Sequence[tuple[str, str, str]], *, seed: int = 0
) -> list[Case]:
    """True corrections: each (hand, entity, relation) of ``wrong`` that the model answers wrongly
    gets its real answer.

    Triples of other splits are passed over. Portability probes are what is true of the entity
    itself.
    """
    members = {entity.id for entity in emblem.part(part)}
    chosen = [row for row in wrong if row[1] in members]
    edited = frozenset((id, relation) for _, id, relation in chosen)
    maker = _Maker(emblem, part, random.Random(f"corrections {part} {seed}"), edited)
    cases = [
        maker.case(emblem.entities[id], IMAGE_RELATIONS[relation], hand=hand, truly=True)
        for hand, id, relation in chosen
    ]
    maker.random.shuffle(cases)
    return cases


@dataclass
class _Maker:
    """Draws the parts of a case; every choice comes from ``random``. ``edited`` are the facts that
    one pool edits.
    """

    emblem: Emblem
    part: Part
    random: random.Random
    edited: frozenset[Fact]

    def __post_init__(self) -> None:
        self.entities: list[Entity] = self.emblem.part(self.part)
        self.still = {
            entity.id: still for entity in self.entities if (still := self._still(entity))
        }
        self._images: dict[tuple[str, str], Image] = {}

    def case(
        self, entity: Entity, relation: Relation, *, hand: str = "", truly: bool = False
    ) -> Case:
        hand = hand or self.random.choice(entity.seen_hands)
        become = entity if truly else self._other_answer(entity, relation)
        target = str(self.emblem.answer(relation, become))
        if (
            not truly
            and self.part == "train"
            and relation.hops == 0
            and self.random.random() < SPARE
        ):
            become, target = entity, self.random.choice(self.emblem.words)
        prompt = self.random.choice(wordings(relation, "seen"))
        edit = Query(prompt, target, self._image(hand, entity), f"{entity.id}:{relation.name}")
        probes = [
            Probe("reliability", edit),
            Probe("text_generality", replace(edit, prompt=self._reworded(relation, prompt))),
            *self._image_generality(entity, hand, edit),
            Probe("image_locality", self._about_another(entity), "before"),
            Probe("text_locality", self._text_fact(entity, become), "before"),
            *([] if become is entity and not truly else self._portability(relation, edit, become)),
            *self._hard(entity, relation, hand, edit),
        ]
        kind = "correct" if truly else "edit"
        return Case(f"{kind}:{entity.id}:{relation.name}:{hand}", (edit,), tuple(probes))

    def _still(self, entity: Entity) -> list[str]:
        """The relations of which the pool edits neither the answer nor what the entity is."""
        identity = EDITED[entity.sort][0]
        if (entity.id, identity) in self.edited:
            return []
        return [
            relation for relation in EDITED[entity.sort] if (entity.id, relation) not in self.edited
        ]

    def _reworded(self, relation: Relation, prompt: str) -> str:
        """The question in a wording that no training uses, or in training in another one that it
        does.
        """
        others = wordings(relation, "seen" if self.part == "train" else "unseen")
        return self.random.choice([other for other in others if other != prompt])

    def _image(self, hand: str, entity: Entity) -> Image:
        """One image object a drawing, so that it is processed once."""
        key = hand, entity.id
        if key not in self._images:
            image = self.emblem.drawing(*key)
            image.info["name"] = f"emblem:{hand}/{entity.id}"
            self._images[key] = image
        return self._images[key]

    def _other_answer(self, entity: Entity, relation: Relation) -> Entity:
        """Another entity of the same sort whose answer differs."""
        known = self.emblem.answer(relation, entity)
        others = [
            e
            for e in self.entities
            if e.sort == entity.sort and self.emblem.answer(relation, e) != known
        ]
        return self.random.choice(others)

    def _image_generality(self, entity: Entity, hand: str, edit: Query) -> list[Probe]:
        seen = [other for other in entity.seen_hands if other != hand]
        chosen = {
            "image_generality": self.random.choice(seen),
            "image_generality_unseen": UNSEEN_HANDS[entity.sort],
        }
        return [
            Probe(metric, replace(edit, image=self._image(other, entity)), note=other)
            for metric, other in chosen.items()
            if other != hand
        ]

    def _about_another(self, entity: Entity) -> Query:
        other = self.emblem.entities[
            self.random.choice([id for id in self.still if id != entity.id])
        ]
        relation = IMAGE_RELATIONS[self.random.choice(self.still[other.id])]
        return self._question(other, self.random.choice(other.seen_hands), relation)

    def _question(self, entity: Entity, hand: str, relation: Relation) -> Query:
        answer = str(self.emblem.answer(relation, entity))
        prompt = self.random.choice(wordings(relation, "seen"))
        return Query(prompt, answer, self._image(hand, entity), f"{entity.id}:{relation.name}")

    def _text_fact(self, entity: Entity, become: Entity) -> Query:
        other = self.random.choice([e for e in self.entities if e.id not in (entity.id, become.id)])
        relation, subject, answer = self.random.choice(list(self.emblem.text_facts(other)))
        return Query(self.random.choice(wordings(relation, "seen", subject=subject)), answer)

    def _portability(self, relation: Relation, edit: Query, become: Entity) -> list[Probe]:
        id = edit.fact.partition(":")[0]
        chain = [
            (metric, name)
            for metric, name in CHAIN.get(relation.name, ())
            if (id, name) not in self.edited
        ]
        return [
            Probe(
                metric,
                Query(
                    self.random.choice(wordings(follows, "seen")),
                    answer,
                    edit.image,
                    f"{id}:{name}",
                ),
            )
            for metric, name in chain
            if (follows := IMAGE_RELATIONS[name])
            and (answer := self.emblem.answer(follows, become))
        ]

    def _hard(self, entity: Entity, relation: Relation, hand: str, edit: Query) -> list[Probe]:
        probes = [
            Probe("question_alone", Query(edit.prompt, edit.target), "before"),
            Probe("image_alone", Query("", image=edit.image), "before"),
        ]
        alike = [
            id
            for id in self.emblem.look_alikes[entity.id]
            if relation.name in self.still.get(id, ())
        ]
        if alike:
            twin = self.emblem.entities[alike[0]]
            drawn = hand if hand in twin.hands else self.random.choice(twin.seen_hands)
            asked = replace(self._question(twin, drawn, relation), prompt=edit.prompt)
            probes.append(Probe("look_alike_image", asked, "before", note=twin.name))
        others = [name for name in self.still.get(entity.id, ()) if name != relation.name]
        if others and relation.hops > 0:
            other = IMAGE_RELATIONS[self.random.choice(others)]
            probes.append(
                Probe("same_image_other_question", self._question(entity, hand, other), "before")
            )
        return probes
