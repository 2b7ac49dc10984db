"""Base classes for editors that store each edit separately: the patch and its editor.

Such edits can be taken back one by one; of two edits of one question the later one wins.
"""

from abc import abstractmethod
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor

from liveedit.editors.base import Editor
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.precedence import (
    COLUMNS,
    latest_of_each_question,
    ledger_with,
    still_latest,
    unknown_ledger,
    without_overruled,
)
from liveedit.models.patch import Patch
from liveedit.types import Query

__all__ = ["BankEditor", "BankPatch"]


class BankPatch(Patch):
    """A patch with one row of ``bank`` for each edit.

    It also knows its editor, and the ``ledger`` (``precedence.py``) of which edits hold.
    """

    FILE: ClassVar[str] = "edits.safetensors"
    factors: ClassVar[tuple[str, ...]] = ()
    """The tensors that are read only when an edit fires; all others route queries."""
    late: ClassVar[tuple[str, ...]] = ()
    """Those of the others that are needed of few edits only, which their images leave."""
    searched: ClassVar[tuple[str, ...]] = ()
    """The tensors that queries search with a sketch."""
    readable: ClassVar[bool] = False
    """Whether it holds the questions and answers of the edits as text or tokens."""

    def __init__(self, editor: Editor, bank: Bank) -> None:
        self.editor = editor
        self.bank = bank
        self.ledger = unknown_ledger(len(bank))
        self.superseded_elsewhere: Tensor | None = None

    def __len__(self) -> int:
        return len(self.bank)

    @property
    def nbytes(self) -> int:
        """Bytes of the bank."""
        return self.bank.nbytes

    def with_bank(self, bank: Bank) -> Self:
        """The same edits with another bank of the same experts."""
        made = copy(self)
        made.bank = bank
        return made

    def with_ledger(self, ledger: Bank, superseded: Tensor | None = None) -> Self:
        """The same edits with another ledger.

        ``superseded`` (E,) marks those that edits of other patches supersede.
        """
        made = copy(self)
        made.ledger = ledger
        made.superseded_elsewhere = superseded
        vars(made).pop("not_superseded", None)
        return made

    @cached_property
    def not_superseded(self) -> Tensor:
        """The edits, boolean (E,), that no later one supersedes; on the bank's device."""
        latest = latest_of_each_question(self.ledger)
        if self.superseded_elsewhere is not None:
            latest &= ~self.superseded_elsewhere
        return latest.to(self.bank.device)

    def following(self, earlier: Self) -> Self:
        """The same patch, ``earlier`` with more edits: what that knows is not found anew."""
        known = vars(earlier).get("not_superseded")
        if known is not None and self.superseded_elsewhere is None:
            asked = self.ledger["asked"].to(known.device)
            vars(self)["not_superseded"] = still_latest(known, asked)
        return self

    def in_force(self, fires: Tensor, edits: Tensor | None = None) -> Tensor:
        """Of the edits that fire for each query, boolean (B, n), those neither superseded nor
        overruled. They are ``edits`` (n,), by default all.
        """
        if edits is None:
            edits = torch.arange(len(self), device=fires.device)
        return without_overruled(self.ledger, fires & self.not_superseded[edits], edits)

    def row(self, index: int) -> "tuple[BankPatch, int]":
        """The patch whose bank holds an edit, and its row there."""
        return self, index

    def made_by(self, editor: "BankEditor[Any]") -> "BankPatch":
        """The edits that an editor made, as a patch of that editor."""
        own = editor.fingerprint == self.editor.fingerprint
        return self if own else editor.empty()

    def give_back(self, earlier: Self) -> None:
        """Free the memory of the edits made after ``earlier``, when no patch has them any more."""
        self.bank.give_back(len(earlier))

    @property
    def texts(self) -> Sequence[str]:
        """The text that the patch keeps of each edit; by default none."""
        return [""] * len(self)

    def stored(self) -> Bank:
        """The bank with the ledger's columns, as it is saved."""
        return Bank(self.bank.tensors() | self.ledger.tensors())

    def save(self, folder: Path) -> None:
        """Write bank, ledger and origin. Raises :class:`StorageError` where that fails."""
        self.stored().save(Path(folder) / self.FILE, self.editor.origin)


B = TypeVar("B", bound=BankPatch)


class BankEditor(Editor[B]):
    """An editor whose edits can be taken back one by one.

    ``patch_class`` is made from the editor and a bank.
    """

    patch_class: ClassVar[type[Any]]
    independent: ClassVar[bool] = True
    """Whether an edit does not depend on the edits made before it."""
    scored: bool = False
    """Whether an edit fires, unless others keep it from that, where its score is above 0."""

    @abstractmethod
    def extended(self, patch: B, queries: Sequence[Query]) -> B:
        """A patch with all edits of ``patch``, then one for each query, at least one."""

    @abstractmethod
    def empty(self) -> B:
        """A patch without edits."""

    def edit(self, queries: Sequence[Query], patch: B | None = None) -> B:
        """See :meth:`Editor.edit`. A question's later edit supersedes its earlier ones."""
        self.validate(queries, patch)
        if patch is None:
            patch = self.empty()
        if not queries:
            return patch
        made = self.extended(patch, queries).with_ledger(ledger_with(patch.ledger, queries))
        return made.following(patch)

    def select(self, patch: B, index: Sequence[int]) -> B:
        """See :meth:`Editor.select`."""
        self.require_own_patch(patch)
        return self.selected(patch, index).with_ledger(patch.ledger.select(index))

    def selected(self, patch: B, index: Sequence[int]) -> B:
        """The edits at ``index``, without their ledger."""
        made: B = self.patch_class(self, patch.bank.select(index))
        return made

    def load_patch(self, folder: Path) -> B:
        """See :meth:`Editor.load_patch`. In a file without a ledger no edit is superseded."""
        bank, metadata = Bank.load(Path(folder) / self.patch_class.FILE)
        self.require_same_origin(metadata, folder)
        tensors = bank.tensors()
        ledger = {name: tensors.pop(name) for name in COLUMNS if name in tensors}
        own = self.empty().bank.tensors()
        bank = Bank({n: t.to(own[n].dtype) if n in own else t for n, t in tensors.items()})
        made = self.restored(bank, metadata, folder)
        return made.with_ledger(Bank(ledger)) if ledger else made

    def from_rows(self, bank: Bank, texts: Sequence[str]) -> B:  # noqa: ARG002
        """The patch with these rows and :attr:`BankPatch.texts`, and without a ledger."""
        made: B = self.patch_class(self, bank)
        return made

    def restored(self, bank: Bank, metadata: dict[str, str], folder: Path) -> B:  # noqa: ARG002
        """The patch of a bank that was read from ``folder`` with its metadata."""
        made: B = self.patch_class(self, bank)
        return made
