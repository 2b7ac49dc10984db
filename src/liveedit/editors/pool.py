"""What methods that keep something of their own for each edit share: BankPatch, and PoolEditor, which makes it."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from liveedit.editors.bank import Bank
from liveedit.editors.base import Editor
from liveedit.models.patch import Patch

__all__ = ["BankPatch", "PoolEditor"]


class BankPatch(Patch):
    """A patch with one row of ``bank`` for each edit, and the editor that made it."""

    FILE: ClassVar[str] = "edits.safetensors"

    def __init__(self, editor: Editor, bank: Bank) -> None:
        self.editor, self.bank = editor, bank

    def __len__(self) -> int:
        return len(self.bank)

    @property
    def nbytes(self) -> int:
        """Bytes of the bank."""
        return self.bank.nbytes

    def save(self, folder: Path) -> None:
        """Write the bank, and whose it is. Raises :class:`StorageError` where that fails."""
        self.bank.save(Path(folder) / self.FILE, self.editor.origin)


class PoolEditor(Editor):
    """An editor whose edits can be taken back one by one. ``patch_class`` is made from the editor and a bank."""

    patch_class: ClassVar[type[BankPatch]]
    independent: ClassVar[bool] = True
    """Whether an edit is the same whatever edits were there before it."""

    def select(self, patch: Patch, index: Sequence[int]) -> BankPatch:
        """See :meth:`Editor.select`."""
        self.own(patch)
        assert isinstance(patch, BankPatch)
        return self.patch_class(self, patch.bank.select(index))

    def load_patch(self, folder: Path) -> BankPatch:
        """See :meth:`Editor.load_patch`."""
        bank, about = Bank.load(Path(folder) / self.patch_class.FILE)
        self.claim(about, folder)
        return self.patch_class(self, bank)
