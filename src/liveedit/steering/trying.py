"""Tries an edit without keeping it: what the model would answer, and what else would change."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from liveedit.data.background import ASKED_ONCE, background_queries
from liveedit.editors.common.bank_editor import BankPatch
from liveedit.store.edit import Edit
from liveedit.store.pool import Pool
from liveedit.types import Query

__all__ = ["RECENT", "Effect", "Trial", "probes", "tried"]

IMAGES = 32
"""Images of the background that a trial asks about."""
RECENT = 32
"""Edits in force, the newest, whose questions a trial asks."""


@dataclass(frozen=True, slots=True)
class Effect:
    """A question whose answer an edit changes.

    Arguments:
        query: The question.
        before: The answer without the edit.
        after: The answer with it.
    """

    query: Query
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Trial:
    """The effects that an edit would have.

    Arguments:
        edit: The edit as it would be made, with ``took`` and ``conflicts``.
        before: The answer to its question now.
        after: The answer to its question with the edit.
        asked: Number of other questions that were asked.
        changes: Those of them whose answers would change.
    """

    edit: Edit
    before: str
    after: str
    asked: int
    changes: tuple[Effect, ...]


def probes(folder: str, others: Sequence[Query]) -> list[Query]:
    """The questions that a trial asks by default: those of a background, then ``others``.

    ``folder`` is that of the background's images.
    """
    drawn = background_queries(folder, IMAGES, "val")
    return [*chain.from_iterable(drawn[name] for name in ASKED_ONCE), *others]


def tried(
    before: Pool, edit: Edit, query: Query, among: Sequence[Query], max_new_tokens: int
) -> Trial:
    """The trial of an edit on the pool ``before``, which stays as it is."""
    after = before.with_edits([edit], [query])
    try:
        asked = [query, *among]
        answers = zip(
            asked,
            _answers(before, asked, max_new_tokens),
            _answers(after, asked, max_new_tokens),
            strict=True,
        )
        (_, was, becomes), *others = answers
    finally:
        _give_back(before, after)
    changes = tuple(Effect(*row) for row in others if row[1] != row[2])
    return Trial(after.newest(1)[0], was, becomes, len(among), changes)


def _answers(pool: Pool, asked: Sequence[Query], max_new_tokens: int) -> list[str]:
    """The answers of a pool."""
    with pool.vlm.unpatched(), pool.vlm.patched(pool.patch):
        return pool.vlm.generate(asked, max_new_tokens=max_new_tokens)


def _give_back(before: Pool, after: Pool) -> None:
    """Let the next edit have the memory that the trial took."""
    if isinstance(before.patch, BankPatch) and isinstance(after.patch, BankPatch):
        after.patch.give_back(before.patch)
