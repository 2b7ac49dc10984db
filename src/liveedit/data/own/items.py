"""Items of an own benchmark: corrections, with what two of them have in common worked out.

A *thing* is what an image shows: images of one correction, and those of corrections that share one,
show the same thing. A *fact* is a question about a thing; two questions about a thing with the same
answer count as one fact, because they may be one question in other words.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal

from liveedit.data.corrections import Correction
from liveedit.data.images import images_hash
from liveedit.data.own.splits import joined
from liveedit.question import question

__all__ = ["Item", "Part", "items_of", "marks"]

Part = Literal["train", "val", "test"]


@dataclass(frozen=True, slots=True)
class Item:
    """A correction in a benchmark.

    Arguments:
        id: Stable id, from its question, answer and pixels.
        question: The question.
        answer: The answer wanted.
        images: Paths of its images.
        hashes: Hashes of the pixels of ``images`` and ``more_images``, in this order.
        more_images: Paths of other images of the thing.
        views: Paths of views of its last image, where there are no other images.
        paraphrases: The question in other words.
        thing: Id of the thing; "" without an image.
        fact: Id of the fact.
        part: The part that it belongs to.
        edited: Whether it is edited. In training all are; elsewhere some stay as they are, so
            that their answers can be asked for.
        line: Its line in the file.
    """

    id: str
    question: str
    answer: str
    images: tuple[str, ...]
    hashes: tuple[str, ...]
    more_images: tuple[str, ...]
    paraphrases: tuple[str, ...]
    line: int
    thing: str = ""
    fact: str = ""
    views: tuple[str, ...] = ()
    part: Part = "train"
    edited: bool = True

    @property
    def shown(self) -> tuple[str, ...]:
        """Hashes of the images that it is asked about."""
        return self.hashes[: len(self.images)]

    @property
    def wordings(self) -> tuple[str, ...]:
        """The question, and as it is given in other words."""
        return (self.question, *self.paraphrases)


def items_of(corrections: Sequence[Correction]) -> list[Item]:
    """The items of corrections, whose parts are still open.

    Of several corrections of one question about the same images the last one holds.
    """
    last: dict[tuple[str, tuple[str, ...]], Item] = {}
    for correction in corrections:
        item = _item(correction)
        last[question(item.question), item.shown] = item
    return _with_facts(list(last.values()))


def _item(correction: Correction) -> Item:
    query = correction.query
    hashes = tuple(images_hash([image]) for image in correction.images)
    shown = str(len(query.images))
    content = "\x1f".join((query.prompt, query.target, shown, *hashes))
    return Item(
        sha256(content.encode()).hexdigest()[:12],
        query.prompt,
        query.target,
        tuple(map(str, query.images)),
        hashes,
        tuple(map(str, correction.more_images)),
        correction.paraphrases,
        correction.line,
    )


def _with_facts(items: Sequence[Item]) -> list[Item]:
    """The items with their things and facts."""
    things = joined([item.hashes for item in items])
    facts: dict[tuple[str, str], str] = {}
    found = []
    for item, number in zip(items, things, strict=True):
        thing = items[number].hashes[0] if item.hashes else ""
        asked = f"{thing}:{question(item.question)}"
        same = (thing, question(item.answer)) if thing else (asked, "")
        found.append(replace(item, thing=thing, fact=facts.setdefault(same, asked)))
    return found


def marks(item: Item) -> Iterable[str]:
    """The marks that no two parts may share: images, and wordings of the question with answer."""
    yield from item.hashes
    for prompt in item.wordings:
        yield f"{question(prompt)}\x1f{question(item.answer)}"
