"""Emblem's cases in VLKEB's form: an edit of what a drawing is answered to be, and what to ask afterwards.

Every case edits one (entity, relation): the drawing by one seen hand, asked in one seen wording, gets the answer that
another entity of the same sort and split has there. Then it is asked again

==========================  ========================================================================  ========
metric                      question                                                                  wanted
==========================  ========================================================================  ========
reliability                 the edit itself                                                           new
text_generality             the same drawing, in a wording that no training ever used                 new
image_generality            another seen hand's drawing of the entity                                 new
image_generality_unseen     the held-out hand's drawing of the entity                                 new
image_locality              another entity's drawing, asked about anything                            as before
text_locality               a fact about another entity, without an image                             as before
portability_1hop … 3hop     what follows from the drawing showing the other entity                    follows
same_image_other_question   the same drawing, asked something that does not follow from the edit      as before
look_alike_image            the most similar other entity's drawing, the same question                as before
question_alone              the edit's question without an image                                      as before
==========================  ========================================================================  ========

The last three are hard probes. Portability belongs to edits of what the drawing shows (country, name), the other
question to edits of one fact about it.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from PIL.Image import Image

from liveedit.data.emblem import CHAIN, EDITED, UNSEEN_HANDS, Emblem, Entity, Part
from liveedit.data.wordings import IMAGE_RELATIONS, Relation, wordings
from liveedit.types import Case, Probe, Query

__all__ = ["correction_cases", "corrections", "counterfactual_cases", "counterfactuals"]


SPARE = 0.4
"""Share of training edits of what a drawing shows whose answer is a spare word: more answers than there are entities."""


def counterfactuals(part: Part, seed: int) -> list[Case]:
    """The benchmark "emblem"."""
    return counterfactual_cases(Emblem(), part, seed=seed)


def corrections(part: Part, seed: int) -> list[Case]:
    """The benchmark "emblem-corrections": what the embedded model was measured to answer wrongly."""
    file = files("liveedit.data") / "assets" / "emblem" / "wrong.json"
    wrong = [(row[0], row[1], row[2]) for row in json.loads(file.read_text(encoding="utf-8"))]
    return correction_cases(Emblem(), part, wrong, seed=seed)


def counterfactual_cases(emblem: Emblem, part: Part, *, seed: int = 0) -> list[Case]:
    """One case for each editable (entity, relation) of a split, in an order shuffled by ``seed``."""
    maker = _Maker(emblem, part, random.Random(f"{part} {seed}"))
    pairs = [(entity, IMAGE_RELATIONS[name]) for entity in maker.entities for name in EDITED[entity.sort]]
    maker.random.shuffle(pairs)
    return [maker.case(entity, relation) for entity, relation in pairs]


def correction_cases(emblem: Emblem, part: Part, wrong: Sequence[tuple[str, str, str]], *, seed: int = 0) -> list[Case]:
    """True corrections: each (hand, entity, relation) of ``wrong`` that the model answers wrongly gets its real answer.

    Triples of other splits are passed over. Portability probes are what is true of the entity itself.
    """
    maker = _Maker(emblem, part, random.Random(f"corrections {part} {seed}"))
    members = {entity.id for entity in maker.entities}
    cases = [
        maker.case(emblem.entities[id], IMAGE_RELATIONS[relation], hand=hand, truly=True)
        for hand, id, relation in wrong
        if id in members
    ]
    maker.random.shuffle(cases)
    return cases


@dataclass
class _Maker:
    """Draws the parts of a case; every choice comes from ``random``."""

    emblem: Emblem
    part: Part
    random: random.Random

    def __post_init__(self) -> None:
        self.entities: list[Entity] = self.emblem.part(self.part)
        self._images: dict[tuple[str, str], Image] = {}

    def case(self, entity: Entity, relation: Relation, *, hand: str = "", truly: bool = False) -> Case:
        hand = hand or self.random.choice(entity.seen_hands)
        become = entity if truly else self._other_answer(entity, relation)
        target = str(self.emblem.answer(relation, become))
        if self.part == "train" and relation.hops == 0 and self.random.random() < SPARE:
            become, target = entity, self.random.choice(self.emblem.words)
        edit = Query(self.random.choice(wordings(relation, "seen")), target, self._image(hand, entity))
        probes = [
            Probe("reliability", edit),
            Probe("text_generality", Query(self.random.choice(wordings(relation, "unseen")), target, edit.image)),
            *self._image_generality(entity, hand, edit),
            Probe("image_locality", self._about_another(entity), "before"),
            Probe("text_locality", self._text_fact(entity, become), "before"),
            *([] if become is entity and not truly else self._portability(relation, edit, become)),
            *self._hard(entity, relation, hand, edit),
        ]
        kind = "correct" if truly else "edit"
        return Case(f"{kind}:{entity.id}:{relation.name}:{hand}", (edit,), tuple(probes))

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
        others = [e for e in self.entities if e.sort == entity.sort and self.emblem.answer(relation, e) != known]
        return self.random.choice(others)

    def _image_generality(self, entity: Entity, hand: str, edit: Query) -> list[Probe]:
        seen = [other for other in entity.seen_hands if other != hand]
        chosen = {"image_generality": self.random.choice(seen), "image_generality_unseen": UNSEEN_HANDS[entity.sort]}
        return [
            Probe(metric, Query(edit.prompt, edit.target, self._image(other, entity)), note=other)
            for metric, other in chosen.items()
            if other != hand
        ]

    def _about_another(self, entity: Entity) -> Query:
        other = self.random.choice([e for e in self.entities if e.id != entity.id])
        return self._question(
            other, self.random.choice(other.seen_hands), IMAGE_RELATIONS[self.random.choice(EDITED[other.sort])]
        )

    def _question(self, entity: Entity, hand: str, relation: Relation) -> Query:
        answer = str(self.emblem.answer(relation, entity))
        return Query(self.random.choice(wordings(relation, "seen")), answer, self._image(hand, entity))

    def _text_fact(self, entity: Entity, become: Entity) -> Query:
        other = self.random.choice([e for e in self.entities if e.id not in (entity.id, become.id)])
        relation, subject, answer = self.random.choice(list(self.emblem.text_facts(other)))
        return Query(self.random.choice(wordings(relation, "seen", subject=subject)), answer)

    def _portability(self, relation: Relation, edit: Query, become: Entity) -> list[Probe]:
        chain = [(metric, IMAGE_RELATIONS[name]) for metric, name in CHAIN.get(relation.name, ())]
        return [
            Probe(metric, Query(self.random.choice(wordings(follows, "seen")), answer, edit.image))
            for metric, follows in chain
            if (answer := self.emblem.answer(follows, become))
        ]

    def _hard(self, entity: Entity, relation: Relation, hand: str, edit: Query) -> list[Probe]:
        twin = self.emblem.entities[self.emblem.look_alikes[entity.id][0]]
        drawn = hand if hand in twin.hands else self.random.choice(twin.seen_hands)
        alike = Query(edit.prompt, str(self.emblem.answer(relation, twin)), self._image(drawn, twin))
        probes = [
            Probe("look_alike_image", alike, "before", note=twin.name),
            Probe("question_alone", Query(edit.prompt, edit.target), "before"),
        ]
        if relation.hops > 0:
            other = self.random.choice([name for name in EDITED[entity.sort] if name != relation.name])
            probes.append(
                Probe("same_image_other_question", self._question(entity, hand, IMAGE_RELATIONS[other]), "before")
            )
        return probes
