"""Wordings of Emblem's questions; some are kept for the test.

A wording is a frame ("Tell me {x}.") around a noun phrase ("the capital of {s}") around a subject
("the country with this flag", or a name when no image is shown). Each relation has 12 *seen*
wordings, used to train the model and the editors, and 4 *unseen* ones, kept for text generality.
Of the unseen wordings, two have a new frame, one a new noun or subject, and one both.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["IMAGE_RELATIONS", "SEEN_FRAMES", "TEXT_RELATIONS", "Relation", "Split", "wordings"]

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

SUBJECTS = {
    "flag": (
        "the country with this flag",
        "the country that this flag belongs to",
        "the nation whose flag this is",
    ),
    "emoji": (
        "the thing in this picture",
        "the thing that is drawn here",
        "the object in this drawing",
    ),
}
UNSEEN_SUBJECT = {
    "flag": "the nation that this flag belongs to",
    "emoji": "the object that is drawn here",
}


@dataclass(frozen=True, slots=True)
class Relation:
    """A property that questions ask for, such as the capital.

    Arguments:
        name: Name of the relation.
        sort: Sort of entity that has the property.
        fact: Entry of an entity's facts with the answer; "name" is the entity's name.
        hops: Number of steps from naming the entity to the answer.
        nouns: Noun phrases around the subject ``{s}``; the last one is kept for the test.
    """

    name: str
    sort: Literal["flag", "emoji"]
    fact: str
    hops: int
    nouns: tuple[str, ...]


FLAG_RELATIONS = (
    Relation(
        "country",
        "flag",
        "name",
        hops=0,
        nouns=("{s}", "the name of {s}", "the country name of {s}"),
    ),
    Relation(
        "capital",
        "flag",
        "capital",
        hops=1,
        nouns=("the capital of {s}", "the capital city of {s}", "the name of the capital of {s}"),
    ),
    Relation(
        "continent",
        "flag",
        "continent",
        hops=1,
        nouns=(
            "the continent of {s}",
            "the continent that holds {s}",
            "the name of the continent of {s}",
        ),
    ),
    Relation(
        "region",
        "flag",
        "region",
        hops=1,
        nouns=(
            "the region of {s}",
            "the part of the world around {s}",
            "the name of the region of {s}",
        ),
    ),
    Relation(
        "language",
        "flag",
        "language",
        hops=1,
        nouns=(
            "the language of {s}",
            "the main language of {s}",
            "the name of the language of {s}",
        ),
    ),
    Relation(
        "currency",
        "flag",
        "currency",
        hops=1,
        nouns=("the currency of {s}", "the money of {s}", "the name of the currency of {s}"),
    ),
    Relation(
        "demonym",
        "flag",
        "demonym",
        hops=1,
        nouns=(
            "the word for people from {s}",
            "the word for someone from {s}",
            "the name for people from {s}",
        ),
    ),
    Relation(
        "neighbour",
        "flag",
        "neighbour",
        hops=1,
        nouns=(
            "the first neighbour of {s}",
            "the first country that borders {s}",
            "the name of the first neighbour of {s}",
        ),
    ),
    Relation(
        "neighbour_capital",
        "flag",
        "neighbour_capital",
        hops=2,
        nouns=(
            "the capital of the first neighbour of {s}",
            "the capital city of the first country that borders {s}",
            "the name of the capital of the first neighbour of {s}",
        ),
    ),
    Relation(
        "far_capital",
        "flag",
        "far_capital",
        hops=3,
        nouns=(
            "the capital of the first neighbour of the first neighbour of {s}",
            "the capital city of the first country that borders the first neighbour of {s}",
            "the name of the capital of the first neighbour of the first neighbour of {s}",
        ),
    ),
)
EMOJI_RELATIONS = (
    Relation("name", "emoji", "name", hops=0, nouns=("{s}", "the name of {s}", "the name for {s}")),
    Relation(
        "kind",
        "emoji",
        "kind",
        hops=1,
        nouns=("the kind of {s}", "the sort of thing that fits {s}", "the name of the kind of {s}"),
    ),
    Relation(
        "group",
        "emoji",
        "group",
        hops=2,
        nouns=(
            "the group of {s}",
            "the large group that holds {s}",
            "the name of the group of {s}",
        ),
    ),
)
COUNTRY_OF_CAPITAL = Relation(
    "country_of_capital",
    "flag",
    "name",
    hops=1,
    nouns=(
        "the country whose capital is {s}",
        "the country with the capital {s}",
        "the name of the country whose capital is {s}",
    ),
)

IMAGE_RELATIONS = {relation.name: relation for relation in (*FLAG_RELATIONS, *EMOJI_RELATIONS)}
"""Relations that are asked about a drawing, by name."""

TEXT_RELATIONS = {
    name: relation for name, relation in IMAGE_RELATIONS.items() if relation.hops > 0
} | {COUNTRY_OF_CAPITAL.name: COUNTRY_OF_CAPITAL}
"""Relations that are asked without an image, by name."""


def wordings(relation: Relation, split: Split, *, subject: str | None = None) -> list[str]:
    """The questions for ``relation``: 12 if ``split`` is "seen", 4 if "unseen".

    With ``subject``, a name, they are about that name and need no image; without, about the image.
    """
    if split == "seen":
        return _seen(relation, subject)
    return _unseen(relation, subject)


def _seen(relation: Relation, subject: str | None) -> list[str]:
    subjects = SUBJECTS[relation.sort] if subject is None else (subject,)
    nouns = relation.nouns[:-1]
    questions = []
    for number, frame in enumerate(SEEN_FRAMES):
        noun = nouns[number % len(nouns)]
        questions.append(_fill(frame, noun, subjects[number // len(nouns) % len(subjects)]))
    return questions


def _unseen(relation: Relation, subject: str | None) -> list[str]:
    subjects = SUBJECTS[relation.sort] if subject is None else (subject,)
    new_subject = UNSEEN_SUBJECT[relation.sort] if subject is None else subject
    *nouns, new_noun = relation.nouns
    new_part = (
        _fill(SEEN_FRAMES[0], nouns[0], new_subject)
        if subject is None
        else _fill(SEEN_FRAMES[1], new_noun, subject)
    )
    return [
        _fill(UNSEEN_FRAMES[0], nouns[0], subjects[-1]),
        _fill(UNSEEN_FRAMES[1], nouns[1], subjects[0]),
        new_part,
        _fill(UNSEEN_FRAMES[2], new_noun, new_subject),
    ]


def _fill(frame: str, noun: str, subject: str) -> str:
    return frame.format(x=noun.format(s=subject))
