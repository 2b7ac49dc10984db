"""Base classes for in-context editors (IKE, LTE, SCR): an edit's text goes before the prompt."""

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankEditor, BankPatch
from liveedit.editors.common.retriever import Retriever
from liveedit.errors import BadInput
from liveedit.models.patch import Rewritten
from liveedit.types import Query

__all__ = ["ContextPatch", "InContextEditor", "fact_text"]


def fact_text(query: Query) -> str:
    """An edit in words: its question and its answer."""
    return f"{query.prompt.strip()} {query.target.strip()}"


class ContextPatch(BankPatch):
    """Edits as texts: ``bank`` holds the retriever's keys, ``contexts`` the texts.

    The text of the edit that a query is about precedes the query's prompt. That is done where
    queries are encoded, so a raw Hugging Face call, which contains token ids, is refused.
    """

    FILE = "context.safetensors"
    readable = True
    editor: "InContextEditor"

    def __init__(self, editor: "InContextEditor", bank: Bank, contexts: Sequence[str] = ()) -> None:
        super().__init__(editor, bank)
        self.contexts = tuple(contexts)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and of the texts."""
        return self.bank.nbytes + sum(len(text.encode()) for text in self.contexts)

    @property
    def texts(self) -> Sequence[str]:
        """See :attr:`BankPatch.texts`."""
        return self.contexts

    def eligible(self, fits: Tensor) -> Tensor:
        """Of the edits that fit a query, boolean (1, E), those in force.

        Without a threshold every edit fits every query, so that an overruled edit would never be
        used; then only superseded edits are left out.
        """
        if self.editor.retriever.threshold is None:
            return fits & self.not_superseded
        return self.in_force(fits)

    def rewrite(self, query: Query) -> Rewritten:
        """See :meth:`Patch.rewrite`."""
        edit, scores = self.editor.retriever.search(self.bank, query, self.eligible)
        if edit is None:
            return Rewritten(query, scores=scores)
        prompt = self.editor.apply_context(self.contexts[edit], query.prompt)
        return Rewritten(replace(query, prompt=prompt), [(edit, 1.0)], scores)

    def save(self, folder: Path) -> None:
        """See :meth:`BankPatch.save`."""
        metadata = self.editor.origin | {"told": json.dumps(self.contexts)}
        self.stored().save(Path(folder) / self.FILE, metadata)


C = TypeVar("C", bound=ContextPatch)


class InContextEditor(BankEditor[C]):
    """An editor that keeps edits as texts."""

    patch_class: ClassVar[type[Any]] = ContextPatch
    retriever: Retriever
    """Chooses the edit that a query is about."""

    @abstractmethod
    def format_context(self, query: Query) -> str:
        """The text that is kept of an edit."""

    def apply_context(self, context: str, question: str) -> str:
        """The prompt of a question with the context of an edit."""
        return context + question

    def empty(self) -> C:
        """A patch without edits."""
        made: C = self.patch_class(self, Bank(self.retriever.no_keys))
        return made

    def extended(self, patch: C, queries: Sequence[Query]) -> C:
        """See :meth:`BankEditor.extended`."""
        keys = self.retriever.keys([query.prompt for query in queries], queries)
        contexts = [self.format_context(query) for query in queries]
        made: C = self.patch_class(self, patch.bank.append(keys), (*patch.contexts, *contexts))
        return made

    def selected(self, patch: C, index: Sequence[int]) -> C:
        """See :meth:`BankEditor.selected`."""
        contexts = [patch.contexts[edit] for edit in index]
        made: C = self.patch_class(self, patch.bank.select(index), contexts)
        return made

    def from_rows(self, bank: Bank, texts: Sequence[str]) -> C:
        """See :meth:`BankEditor.from_rows`."""
        made: C = self.patch_class(self, bank, texts)
        return made

    def restored(self, bank: Bank, metadata: dict[str, str], folder: Path) -> C:
        """See :meth:`BankEditor.restored`. Raises :class:`BadInput` for damaged texts."""
        try:
            made: C = self.patch_class(self, bank, json.loads(metadata["told"]))
        except (KeyError, ValueError, RecursionError) as error:
            raise BadInput(
                f"{folder} holds no texts of edits ({error}): it is broken, make the edits again"
            ) from error
        return made
