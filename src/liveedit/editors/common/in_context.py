"""What methods that tell the model the edit in its prompt share: facts in words, and a retriever
that chooses one.
"""

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from liveedit.editors.base import Editor
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankPatch, PoolEditor
from liveedit.editors.common.retriever import Retriever
from liveedit.errors import BadInput
from liveedit.models.batch import Firing
from liveedit.types import Query

__all__ = ["ContextEditor", "ContextPatch", "fact"]


def fact(query: Query) -> str:
    """An edit in words: its question and its answer."""
    return f"{query.prompt.strip()} {query.target.strip()}"


class ContextPatch(BankPatch):
    """``bank`` holds the retriever's keys, ``told`` what is put before the prompt of a query that
    an edit is about.

    It acts where queries are encoded, so a raw Hugging Face call, which brings token ids, is
    refused.
    """

    FILE = "context.safetensors"
    editor: "ContextEditor"

    def __init__(self, editor: Editor, bank: Bank, told: Sequence[str] = ()) -> None:
        super().__init__(editor, bank)
        self.told = tuple(told)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and of the texts."""
        return self.bank.nbytes + sum(len(text.encode()) for text in self.told)

    def fitting(self, fits: Tensor) -> Tensor:
        """Of the edits that fit, boolean (1, E), those that do not give way; all of them fit where
        nothing is asked.
        """
        return (
            fits & self.standing
            if self.editor.retriever.threshold is None
            else self.taking_part(fits)
        )

    def rewrite(self, query: Query) -> tuple[Query, list[Firing]]:
        """See :meth:`Patch.rewrite`."""
        place = self.editor.retriever.find(self.bank, query, self.fitting)
        if place is None:
            return query, []
        return replace(query, prompt=self.editor.prompt(self.told[place], query.prompt)), [
            (place, 1.0)
        ]

    def save(self, folder: Path) -> None:
        """See :meth:`BankPatch.save`."""
        self.stored().save(
            Path(folder) / self.FILE, self.editor.origin | {"told": json.dumps(self.told)}
        )


class ContextEditor(PoolEditor):
    """An editor that keeps edits as texts."""

    patch_class: ClassVar[type[ContextPatch]] = ContextPatch
    retriever: Retriever
    """Chooses the edit that a query is about."""

    @abstractmethod
    def tell(self, query: Query) -> str:
        """What is kept of an edit in words."""

    @abstractmethod
    def prompt(self, told: str, question: str) -> str:
        """The prompt that brings what :meth:`tell` said to a question."""

    def empty(self) -> ContextPatch:
        """A patch without edits."""
        return self.patch_class(self, Bank(self.retriever.empty))

    def extended(self, held: BankPatch, queries: Sequence[Query]) -> ContextPatch:
        """See :meth:`PoolEditor.extended`."""
        assert isinstance(held, ContextPatch)
        bank = held.bank.append(self.retriever.keys([query.prompt for query in queries], queries))
        return self.patch_class(self, bank, (*held.told, *(self.tell(query) for query in queries)))

    def selected(self, patch: BankPatch, index: Sequence[int]) -> ContextPatch:
        """See :meth:`PoolEditor.selected`."""
        assert isinstance(patch, ContextPatch)
        return self.patch_class(
            self, patch.bank.select(index), [patch.told[place] for place in index]
        )

    def restored(self, bank: Bank, about: dict[str, str], folder: Path) -> ContextPatch:
        """See :meth:`PoolEditor.restored`. Raises :class:`BadInput` where the texts are broken."""
        try:
            return self.patch_class(self, bank, json.loads(about["told"]))
        except (KeyError, ValueError, RecursionError) as error:
            raise BadInput(
                f"{folder} holds no texts of edits ({error}): it is broken, make the edits again"
            ) from error
