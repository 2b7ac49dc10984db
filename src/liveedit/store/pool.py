"""Pool: the edits made on a model, and the patch with which it answers by them. A value.

Adding edits and taking them back give another pool; see :class:`liveedit.store.edit.Edit` for what
is reported of each edit. Methods with a bank keep each edit by itself. The weights of the others
hold all of them: these methods take an edit back by making the others again, from their images.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from pathlib import Path

import torch

from liveedit.editors.base import Editor
from liveedit.editors.common.bank_editor import BankEditor, BankPatch
from liveedit.editors.common.precedence import ledger_overruling
from liveedit.errors import BadInput
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM
from liveedit.store.conflicts import PatchedModel, conflicts, is_target
from liveedit.store.edit import Edit, history, spellings
from liveedit.store.pictures import save_queries
from liveedit.store.roll import ListedRoll, Roll
from liveedit.types import Query

__all__ = ["Pool"]


@dataclass(frozen=True)
class Pool:
    """The edits of an editor, which may be a mixed one.

    Arguments:
        vlm: The model.
        editor: The editor.
        patch: The patch with the edits.
        roll: All edits, superseded ones included, in the order in which they were made.
        queries: Queries of the edits by id, for methods that make edits again.
    """

    vlm: VLM
    editor: Editor
    patch: Patch
    roll: Roll = field(default_factory=ListedRoll)
    queries: Mapping[str, Query] = field(default_factory=dict)

    @classmethod
    def empty(cls, vlm: VLM, editor: Editor) -> "Pool":
        """A pool without edits."""
        return cls(vlm, editor, editor.empty())

    @property
    def has_bank(self) -> bool:
        """Whether the method keeps each edit by itself; otherwise its weights hold all of them."""
        return isinstance(self.editor, BankEditor)

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All edits, oldest first."""
        return self.roll.all()

    @cached_property
    def history(self) -> tuple[Edit, ...]:
        """All edits, oldest first; superseded ones name the edit that superseded them."""
        return history(self.edits)

    @cached_property
    def in_force(self) -> tuple[Edit, ...]:
        """The edits in force, oldest first."""
        return tuple(edit for edit in self.history if not edit.superseded_by)

    def newest(self, count: int) -> list[Edit]:
        """The last edits of the :attr:`history`."""
        return self.roll.resolved(range(len(self.roll) - count, len(self.roll)))

    def held(self, indices: Sequence[int]) -> list[Edit]:
        """The edits that the patch holds at some indices, as in the :attr:`history`."""
        if self.has_bank:
            return self.roll.resolved(indices)
        in_patch = [edit for edit in self.history if edit.held]
        return [in_patch[index] for index in indices]

    def with_edits(self, new: Sequence[Edit], queries: Sequence[Query]) -> "Pool":
        """The pool with new edits, given as entries and as queries with opened images."""
        first = spellings(new) | self.roll.spellings({edit.number for edit in new})
        spelled = [
            replace(query, prompt=first[edit.number])
            for query, edit in zip(queries, new, strict=True)
        ]
        held = [True] * len(new) if self.has_bank else _last_of_each_question(new)
        patch = self.editor.edit(list(compress(spelled, held)), self.patch)
        model = PatchedModel(self.vlm, self.editor)
        found = conflicts(model, self.patch, patch, self.roll.extended(new), spelled)
        made = replace(self, patch=_overruling(patch, found))
        took = made.took(queries, spelled)
        ids = _ids(self.roll.extended(new), found)
        entries = [
            replace(edit, took=took[at], held=held[at], conflicts=ids[at])
            for at, edit in enumerate(new)
        ]
        made = replace(made, roll=self.roll.extended(entries))
        if self.has_bank:
            return made
        known = {edit.id: query for edit, query in zip(new, queries, strict=True)}
        made = replace(made, queries={**self.queries, **known})
        return made.without_superseded(queries, spelled)

    def without_superseded(self, queries: Sequence[Query], spelled: Sequence[Query]) -> "Pool":
        """The pool whose weights hold no superseded edit, as far as the others can be made again.

        Its last edits are those of ``queries``, which are then checked again.
        """
        if not any(edit.superseded_by and edit.held for edit in self.history):
            return self
        if not self.remembers([edit for edit in self.history if not edit.superseded_by]):
            return self
        made = self.made_again(self.edits)
        edits = list(made.edits)
        first = len(edits) - len(queries)
        for number, answered in enumerate(made.took(queries, spelled), start=first):
            edits[number] = replace(edits[number], took=answered)
        return replace(made, roll=ListedRoll(tuple(edits)))

    def took(self, queries: Sequence[Query], spelled: Sequence[Query]) -> list[bool]:
        """Whether the patch gives each query its target, also in the first spelling of its
        prompt.
        """
        again = [at for at, query in enumerate(queries) if query.prompt != spelled[at].prompt]
        asked = [*queries, *(spelled[at] for at in again)]
        model = PatchedModel(self.vlm, self.editor)
        replies = model.answers(self.patch, asked, [query.target for query in queries])
        answered = [
            is_target(reply.text, query.target) for reply, query in zip(replies, asked, strict=True)
        ]
        took = answered[: len(queries)]
        for at, in_first_spelling in zip(again, answered[len(queries) :], strict=True):
            took[at] = took[at] and in_first_spelling
        return took

    def without(self, gone: Sequence[int]) -> "Pool":
        """The pool without the edits of these indices.

        Raises :class:`BadInput` where the others have to be made again and their images are not
        kept.
        """
        stays = torch.ones(len(self.roll), dtype=torch.bool)
        stays[list(gone)] = False
        kept = stays.nonzero()[:, 0].tolist()
        left = self.roll.select(kept)
        if not self.has_bank:
            return self.made_again(left.all())
        return replace(self, patch=self.editor.select(self.patch, kept), roll=left)

    def made_again(self, edits: Sequence[Edit]) -> "Pool":
        """A pool in which those of ``edits`` that are in force are made again, and no others.

        Raises :class:`BadInput` where their images are not kept.
        """
        last = {edit.number: edit.id for edit in edits}
        in_force = [edit for edit in edits if last[edit.number] == edit.id]
        if not self.remembers(in_force):
            raise BadInput(
                f"{self.editor.name} takes an edit back by making the others again, and lacks "
                "some of their images: restore the folder from a copy, or make the edits again "
                "elsewhere"
            )
        patch = self.editor.empty()
        if in_force:
            first = spellings(edits)
            patch = self.editor.edit(
                [replace(self.queries[edit.id], prompt=first[edit.number]) for edit in in_force]
            )
        held = [replace(edit, held=last[edit.number] == edit.id) for edit in edits]
        return replace(self, patch=patch, roll=ListedRoll(tuple(held)))

    def save(self, folder: Path) -> None:
        """Write the patch and, for methods that need them again, the images of the edits."""
        self.patch.save(folder)
        if not self.has_bank:
            save_queries(folder, self.edits, self.queries, self.editor.origin)

    def queries_of(self, edits: Sequence[Edit]) -> Iterator[tuple[Edit, Query]]:
        """Edits with their queries, as far as their images are kept."""
        for edit in edits:
            if edit.id in self.queries:
                yield edit, self.queries[edit.id]
            elif not edit.image:
                yield edit, Query(edit.prompt, edit.target)

    def remembers(self, edits: Sequence[Edit]) -> bool:
        """Whether the queries of these edits are kept."""
        return all(edit.id in self.queries for edit in edits)


def _last_of_each_question(edits: Sequence[Edit]) -> list[bool]:
    """Whether each edit is the last of its question."""
    last = {edit.number: index for index, edit in enumerate(edits)}
    return [last[edit.number] == index for index, edit in enumerate(edits)]


def _ids(roll: Roll, found: Sequence[Sequence[int]]) -> list[tuple[str, ...]]:
    """The ids of edits that are given by lists of indices."""
    return [tuple(edit.id for edit in roll.at(indices)) for indices in found]


def _overruling(patch: Patch, found: Sequence[Sequence[int]]) -> Patch:
    """The patch in which the newest edits, one for each of ``found``, overrule those edits."""
    if not isinstance(patch, BankPatch) or not any(found):
        return patch
    first = len(patch) - len(found)
    overruled = {number: indices for number, indices in enumerate(found, start=first) if indices}
    return patch.with_ledger(ledger_overruling(patch.ledger, overruled))
