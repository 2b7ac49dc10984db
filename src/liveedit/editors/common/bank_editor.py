"""What methods that keep something of their own for each edit share: BankPatch, and PoolEditor,
which makes it.
"""

from abc import abstractmethod
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

from torch import Tensor

from liveedit.editors.base import Editor
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.precedence import COLUMNS, extended, settled, standing, unknown
from liveedit.models.patch import Patch
from liveedit.types import Query

__all__ = ["BankPatch", "PoolEditor"]


class BankPatch(Patch):
    """A patch with one row of ``bank`` for each edit, the editor that made it, and the ledger of
    ``precedence.py``.
    """

    FILE: ClassVar[str] = "edits.safetensors"

    def __init__(self, editor: Editor, bank: Bank) -> None:
        self.editor, self.bank = editor, bank
        self.ledger = unknown(len(bank))

    def __len__(self) -> int:
        return len(self.bank)

    @property
    def nbytes(self) -> int:
        """Bytes of the bank."""
        return self.bank.nbytes

    def listed(self, ledger: Bank) -> Self:
        """The same edits with another ledger."""
        made = copy(self)
        made.ledger = ledger
        vars(made).pop("standing", None)
        return made

    @cached_property
    def standing(self) -> Tensor:
        """Which edits (E,) are not superseded by a later one, where the bank is."""
        device = next(iter(self.bank.tensors().values())).device
        return standing(self.ledger).to(device)

    def taking_part(self, fires: Tensor) -> Tensor:
        """Of the edits that fire for each query, boolean (B, E), those that are neither superseded
        nor overruled.
        """
        return settled(self.ledger, fires & self.standing)

    def stored(self) -> Bank:
        """The bank with the ledger's columns, as it is saved."""
        return Bank(self.bank.tensors() | self.ledger.tensors())

    def save(self, folder: Path) -> None:
        """Write the bank, and whose it is. Raises :class:`StorageError` where that fails."""
        self.stored().save(Path(folder) / self.FILE, self.editor.origin)


class PoolEditor(Editor):
    """An editor whose edits can be taken back one by one. ``patch_class`` is made from the editor
    and a bank.
    """

    patch_class: ClassVar[type[BankPatch]]
    independent: ClassVar[bool] = True
    """Whether an edit is the same whatever edits were there before it."""

    @abstractmethod
    def extended(self, held: BankPatch, queries: Sequence[Query]) -> BankPatch:
        """A patch that holds what ``held`` holds and, behind it, one edit a query. There is at
        least one.
        """

    @abstractmethod
    def empty(self) -> BankPatch:
        """A patch without edits."""

    def edit(self, queries: Sequence[Query], patch: Patch | None = None) -> BankPatch:
        """See :meth:`Editor.edit`. An edit of a question that was edited before supersedes that
        one.
        """
        self.begin(queries, patch)
        held = self.empty() if patch is None else patch
        assert isinstance(held, BankPatch)
        if not queries:
            return held
        return self.extended(held, queries).listed(extended(held.ledger, queries))

    def select(self, patch: Patch, index: Sequence[int]) -> BankPatch:
        """See :meth:`Editor.select`."""
        self.own(patch)
        assert isinstance(patch, BankPatch)
        return self.selected(patch, index).listed(patch.ledger.select(index))

    def selected(self, patch: BankPatch, index: Sequence[int]) -> BankPatch:
        """The edits at ``index``, without a ledger."""
        return self.patch_class(self, patch.bank.select(index))

    def load_patch(self, folder: Path) -> BankPatch:
        """See :meth:`Editor.load_patch`. The edits of a file without a ledger all stand."""
        bank, about = Bank.load(Path(folder) / self.patch_class.FILE)
        self.claim(about, folder)
        tensors = bank.tensors()
        ledger = {name: tensors.pop(name) for name in COLUMNS if name in tensors}
        made = self.restored(Bank(tensors), about, folder)
        return made.listed(Bank(ledger)) if ledger else made

    def restored(self, bank: Bank, about: dict[str, str], folder: Path) -> BankPatch:  # noqa: ARG002
        """The patch of a bank that was read from ``folder``, with what was put beside it."""
        return self.patch_class(self, bank)
