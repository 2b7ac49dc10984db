"""Edit: what a store says about one edit, without its tensors and images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from liveedit.question import number, question

__all__ = ["Edit", "history", "resolved", "spellings"]


@dataclass(frozen=True)
class Edit:
    """One edit.

    Arguments:
        id: Short id.
        prompt: The question.
        target: The answer to give.
        image: Hash of the pixels of the images; empty without images.
        time: When it was made, in ISO format.
        names: Names of the images, where they have any.
        about: Which of the images the question is about; -1 where there is only one.
        took: Whether the model answered with the target once the edit was made.
        conflicts: Ids of the earlier edits in force that it is in conflict with
            (:mod:`liveedit.store.conflicts`). Where both fire, it overrules them.
        held: Whether the patch still holds it. Methods without a bank drop superseded edits when
            they are made again.
        superseded_by: Id of the later edit of the same question about the same images.
        who: Who made it.
        why: The reason given.
    """

    id: str
    prompt: str
    target: str
    image: str
    time: str
    names: tuple[str, ...] = ()
    about: int | None = -1
    took: bool | None = None
    conflicts: tuple[str, ...] = ()
    held: bool = True
    superseded_by: str = ""
    who: str = ""
    why: str = ""

    @cached_property
    def number(self) -> int:
        """The number of its question (:func:`liveedit.question.number`)."""
        return number(self.prompt, self.image, self.about)

    @cached_property
    def question(self) -> str:
        """Its prompt in normal form (:func:`liveedit.question.question`)."""
        return question(self.prompt)


def spellings(edits: Sequence[Edit]) -> dict[int, str]:
    """The first spelling of each question, by the number of the question."""
    return {edit.number: edit.prompt for edit in reversed(edits)}


def history(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """The edits in their order, with ``superseded_by``, and with conflicts among those in force."""
    return resolved(edits, {edit.number: edit.id for edit in edits})


def resolved(edits: Sequence[Edit], last: Mapping[int, str]) -> tuple[Edit, ...]:
    """The same, given the id of the last edit of each of their questions and of those that they are
    in conflict with, by the question's number.
    """
    in_force = set(last.values())
    found: list[Edit] = []
    for edit in edits:
        latest = last[edit.number]
        superseded_by = "" if latest == edit.id else latest
        conflicts = tuple(id for id in edit.conflicts if id in in_force)
        if (superseded_by, conflicts) != (edit.superseded_by, edit.conflicts):
            edit = replace(edit, superseded_by=superseded_by, conflicts=conflicts)
        found.append(edit)
    return tuple(found)
