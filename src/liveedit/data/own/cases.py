"""Cases of an own benchmark: each edits one correction, and probes what must change and what not.

=========================  ==========================================================  =========
metric                     question                                                    wanted
=========================  ==========================================================  =========
reliability                the edit itself                                             new
text_generality            the question in other words: as given, else in a frame      new
                           that no training uses (in training: another frame)
image_generality           another image of the thing as given, else a view of the     new
                           image
text_locality              a fact of Emblem, without an image                          as before
image_locality             another correction's image and question, or a drawing       as before
look_alike_image           the question about another correction's image, where it is  as before
                           asked the same, too
same_image_other_question  another correction's question about the image               as before
question_alone             the question without the image                              as before
image_alone                :data:`NEUTRAL` about the image                             as before
=========================  ==========================================================  =========

All edits of a part fit into one bank: probes whose answers must stay are drawn from corrections
that are not edited (:attr:`Item.edited`). In training every correction is edited; batches are
small, and ``Query.fact`` tells which edits are unrelated. Background drawings are of Emblem's
entities of the same part, and none that is among the corrections.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL.Image import Image

from liveedit.data.emblem.cases import shared_emblem
from liveedit.data.emblem.drawings import EDITED
from liveedit.data.emblem.wordings import IMAGE_RELATIONS, wordings
from liveedit.data.images import images_hash
from liveedit.data.own.benchmarks import Own, read
from liveedit.data.own.items import Item, Part
from liveedit.data.variants import SEEN_FRAMES, UNSEEN_FRAMES
from liveedit.question import question
from liveedit.types import Case, Probe, Query

__all__ = ["BACKGROUND", "NEUTRAL", "cases_of", "own_cases"]

NEUTRAL = "Describe the image."
"""Prompt of ``image_alone``."""
BACKGROUND = "background"
"""Note of a probe that is drawn from Emblem."""
VIEW = "view of the image"
"""Note of a probe about a view of the edit's image."""


def own_cases(name: str, part: Part, seed: int) -> list[Case]:
    """The cases of one part of an own benchmark, in an order shuffled by ``seed``.

    Raises :class:`BadInput` if there is no such benchmark.
    """
    return cases_of(read(name), part, seed)


def cases_of(own: Own, part: Part, seed: int) -> list[Case]:
    """The cases of one part of a benchmark, in an order shuffled by ``seed``."""
    maker = _CaseMaker(own, part, seed)
    cases = [maker.case(item) for item in maker.items if item.edited]
    random.Random(f"{own.name} {part} {seed}").shuffle(cases)
    return cases


@dataclass
class _CaseMaker:
    """Maker of the cases of one part."""

    own: Own
    part: Part
    seed: int
    chance: random.Random = field(default_factory=random.Random)
    """The source of all random choices of the present case."""

    def __post_init__(self) -> None:
        self.items = [item for item in self.own.items if item.part == self.part]
        self.staying = [item for item in self.items if self.part == "train" or not item.edited]
        """The items that may be asked for as they were before."""
        self.edited = {_key(item.thing, prompt) for item, prompt in _wordings(self.items)}
        """The things and questions that some case edits."""
        self.known: set[str] = set()
        for item in self.own.items:
            self.known.update(item.hashes)
        self.entities = shared_emblem().part(self.part)
        self.drawings: dict[tuple[str, str], Image] = {}

    def case(self, item: Item) -> Case:
        """The case that edits one correction."""
        self.chance = random.Random(f"{self.part} {self.seed} {item.id}")
        edit = _query(item)
        probes = [
            Probe("reliability", edit),
            Probe("text_generality", replace(edit, prompt=self._reworded(item))),
            Probe("text_locality", self._text_fact(), "before", BACKGROUND),
            *self._image_locality(item),
            *self._about_the_image(item, edit),
        ]
        return Case(f"{self.own.name}:{item.id}", (edit,), tuple(probes))

    def _reworded(self, item: Item) -> str:
        """The question in other words."""
        if item.paraphrases:
            return self.chance.choice(item.paraphrases)
        frames = SEEN_FRAMES if self.part == "train" else UNSEEN_FRAMES
        return self.chance.choice(frames).format(q=item.question)

    def _about_the_image(self, item: Item, edit: Query) -> Iterator[Probe]:
        """The probes that a correction without an image does not have."""
        if not item.images:
            return
        others = item.more_images or item.views
        images = [*edit.images[:-1], Path(self.chance.choice(others))]
        note = "" if item.more_images else VIEW
        yield Probe("image_generality", replace(edit, image=images), note=note)
        if other := self._drawn(self._alike(item)):
            query = replace(_query(other), prompt=item.question)
            yield Probe("look_alike_image", query, "before")
        if other := self._drawn(self._about_the_thing(item)):
            query = replace(edit, prompt=other.question, target=other.answer, fact=other.fact)
            yield Probe("same_image_other_question", query, "before")
        if _key("", item.question) not in self.edited:
            yield Probe("question_alone", Query(item.question, item.answer), "before")
        if _key(item.thing, NEUTRAL) not in self.edited:
            yield Probe("image_alone", Query(NEUTRAL, image=edit.image), "before")

    def _alike(self, item: Item) -> list[Item]:
        """The items that ask the same about another thing."""
        asked = question(item.question)
        return [other for other in self._elsewhere(item) if question(other.question) == asked]

    def _elsewhere(self, item: Item) -> list[Item]:
        """The items about images of other things whose answers stay."""
        return [other for other in self.staying if other.images and other.thing != item.thing]

    def _about_the_thing(self, item: Item) -> list[Item]:
        """The items about the same image, with other questions and answers that stay."""
        return [
            other for other in self.staying if other.fact != item.fact and other.shown == item.shown
        ]

    def _drawn(self, items: Sequence[Item]) -> Item | None:
        return self.chance.choice(items) if items else None

    def _image_locality(self, item: Item) -> Iterator[Probe]:
        """Another correction's question about its image, or as often one about a drawing."""
        other = self._drawn(self._elsewhere(item))
        if other is not None and self.chance.random() < 0.5:
            yield Probe("image_locality", _query(other), "before")
        elif (query := self._about_a_drawing()) is not None:
            yield Probe("image_locality", query, "before", BACKGROUND)

    # The background

    def _about_a_drawing(self) -> Query | None:
        """A question about a drawing that is not among the corrections, if there is one."""
        for entity in self.chance.sample(self.entities, len(self.entities)):
            image = self._drawing(self.chance.choice(entity.seen_artists), entity.id)
            if images_hash([image]) in self.known:
                continue
            relation = IMAGE_RELATIONS[self.chance.choice(EDITED[entity.sort])]
            answer = shared_emblem().answer(relation, entity) or ""
            prompt = self.chance.choice(wordings(relation, "seen"))
            return Query(prompt, answer, image, f"{entity.id}:{relation.name}")
        return None

    def _drawing(self, artist: str, entity: str) -> Image:
        """The drawing, the same object for every call, so that it is encoded once."""
        key = artist, entity
        if key not in self.drawings:
            image = shared_emblem().drawing(artist, entity)
            image.info["name"] = f"emblem:{artist}/{entity}"
            self.drawings[key] = image
        return self.drawings[key]

    def _text_fact(self) -> Query:
        """A question without an image about a fact of Emblem."""
        entity = self.chance.choice(self.entities)
        facts = list(shared_emblem().text_facts(entity))
        relation, subject, answer = self.chance.choice(facts)
        return Query(self.chance.choice(wordings(relation, "seen", subject=subject)), answer)


def _query(item: Item) -> Query:
    """The question of an item about its images."""
    return Query(item.question, item.answer, [Path(path) for path in item.images], item.fact)


def _wordings(items: Sequence[Item]) -> Iterable[tuple[Item, str]]:
    """The items that are edited, with each wording of their questions."""
    for item in items:
        if item.edited:
            for prompt in item.wordings:
                yield item, prompt


def _key(thing: str, prompt: str) -> tuple[str, str]:
    return thing, question(prompt)
