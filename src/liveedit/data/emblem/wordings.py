"""How Emblem asks: every relation in many wordings, some of which no training ever sees.

A wording is a frame ("Tell me {x}.") around a noun phrase ("the capital of {s}") around a subject
("the country with this flag", or a name when no image is shown). Each relation has 12 *seen*
wordings, used to train the model and the editors, and 4 *unseen* ones, kept for text generality:
two with a new frame, one with a new noun or subject, one with both.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["IMAGE_RELATIONS", "TEXT_RELATIONS", "Relation", "Split", "wordings"]

Split = Literal["seen", "unseen"]

SEEN_FRAMES = (
    "What is {x}?",
    "Tell me {x}.",
    "Answer with {x}.",
    "Give {x}.",
    "Can you say what {x} is?",
    "Do you know {x}?",
    "I would like to know {x}.",
    "Please tell me what {x} is.",
    "State {x}.",
    "Please give {x}.",
    "I want to know what {x} is.",
    "Which one is {x}?",
)
UNSEEN_FRAMES = ("Could you tell me {x}?", "Please write {x}.", "Say what {x} is.")

FLAG = (
    "the country with this flag",
    "the country that this flag belongs to",
    "the nation whose flag this is",
)
FLAG_UNSEEN = "the nation that this flag belongs to"
DRAWING = (
    "the thing in this picture",
    "the thing that is drawn here",
    "the object in this drawing",
)
DRAWING_UNSEEN = "the object that is drawn here"


@dataclass(frozen=True, slots=True)
class Relation:
    """One thing that can be asked: its noun phrases around the subject ``{s}``, the last one kept
    for the test.

    ``sort`` is the kind of entity it is asked about; ``fact`` the entry of an entity's facts that
    answers it ("name" is the entity's name); ``hops`` how many steps it is away from naming the
    entity.
    """

    name: str
    sort: Literal["flag", "emoji"]
    fact: str
    hops: int
    nouns: tuple[str, ...]


def _relations(
    sort: Literal["flag", "emoji"], rows: list[tuple[str, str, int, tuple[str, ...]]]
) -> dict[str, Relation]:
    return {name: Relation(name, sort, fact, hops, nouns) for name, fact, hops, nouns in rows}


IMAGE_RELATIONS: dict[str, Relation] = _relations(
    "flag",
    [
        ("country", "name", 0, ("{s}", "the name of {s}", "the country name of {s}")),
        ("capital", "capital", 1, ("the capital of {s}", "the capital city of {s}", "the name of the capital of {s}")),
        ("continent", "continent", 1, ("the continent of {s}", "the continent that holds {s}", "the name of the continent of {s}")),
        ("region", "region", 1, ("the region of {s}", "the part of the world around {s}", "the name of the region of {s}")),
        ("language", "language", 1, ("the language of {s}", "the main language of {s}", "the name of the language of {s}")),
        ("currency", "currency", 1, ("the currency of {s}", "the money of {s}", "the name of the currency of {s}")),
        ("demonym", "demonym", 1, ("the word for people from {s}", "the word for someone from {s}", "the name for people from {s}")),
        ("neighbour", "neighbour", 1, ("the first neighbour of {s}", "the first country that borders {s}", "the name of the first neighbour of {s}")),
        ("neighbour_capital", "neighbour_capital", 2, ("the capital of the first neighbour of {s}", "the capital city of the first country that borders {s}", "the name of the capital of the first neighbour of {s}")),
        ("far_capital", "far_capital", 3, ("the capital of the first neighbour of the first neighbour of {s}", "the capital city of the first country that borders the first neighbour of {s}", "the name of the capital of the first neighbour of the first neighbour of {s}")),
    ],
) | _relations(
    "emoji",
    [
        ("name", "name", 0, ("{s}", "the name of {s}", "the name for {s}")),
        ("kind", "kind", 1, ("the kind of {s}", "the sort of thing that fits {s}", "the name of the kind of {s}")),
        ("group", "group", 2, ("the group of {s}", "the large group that holds {s}", "the name of the group of {s}")),
    ],
)  # fmt: skip

TEXT_RELATIONS: dict[str, Relation] = {
    name: relation for name, relation in IMAGE_RELATIONS.items() if relation.hops > 0
} | _relations(
    "flag",
    [("country_of_capital", "name", 1, ("the country whose capital is {s}", "the country with the capital {s}", "the name of the country whose capital is {s}"))],
)  # fmt: skip


def wordings(relation: Relation, split: Split, *, subject: str | None = None) -> list[str]:
    """The questions for ``relation``: 12 if ``split`` is "seen", 4 if "unseen".

    With ``subject`` (a name) the questions are text-only and about that name; without it they are
    about the image.
    """
    seen: tuple[str, ...]
    seen, unseen = (FLAG, FLAG_UNSEEN) if relation.sort == "flag" else (DRAWING, DRAWING_UNSEEN)
    if subject is not None:
        seen, unseen = (subject,), subject
    nouns, new_noun = relation.nouns[:-1], relation.nouns[-1]
    if split == "seen":
        pairs = [
            (nouns[i % len(nouns)], seen[(i // len(nouns)) % len(seen)])
            for i in range(len(SEEN_FRAMES))
        ]
        return [
            _fill(frame, noun, who) for frame, (noun, who) in zip(SEEN_FRAMES, pairs, strict=True)
        ]
    return [
        _fill(UNSEEN_FRAMES[0], nouns[0], seen[-1]),
        _fill(UNSEEN_FRAMES[1], nouns[1], seen[0]),
        _fill(SEEN_FRAMES[1], new_noun, seen[0])
        if subject
        else _fill(SEEN_FRAMES[0], nouns[0], unseen),
        _fill(UNSEEN_FRAMES[2], new_noun, unseen),
    ]


def _fill(frame: str, noun: str, subject: str) -> str:
    return frame.format(x=noun.format(s=subject))
