"""Rows: the tensors of one editor's edits, from a store into banks.

The keys of all edits are in memory; their factors are on a shelf, which reads them when they fire.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankPatch
from liveedit.editors.common.shelf import Shelf, ShelvedBank, shelved
from liveedit.store.store import Store
from liveedit.store.tensors import Layout

__all__ = ["Rows"]

READERS = 8
"""Threads that read the keys of many edits, which keeps a disk busy."""
AT_A_TIME = 200
"""Edits whose keys one of them reads at a time."""
P = TypeVar("P", bound=BankPatch)


class Rows:
    """Reads the edits of one editor, whose patch without edits is ``empty``."""

    def __init__(self, store: Store, empty: BankPatch) -> None:
        self.store = store
        self.layout = Layout.of(empty.bank.tensors(), empty.factors)
        self._device = empty.bank.device
        factors = {name: empty.bank[name] for name in empty.factors}
        self._shelf = Shelf(factors, self._factors) if factors else None

    def settled(self, patch: P, numbers: Sequence[int]) -> P:
        """The patch with the factors on the shelf; ``numbers`` are those of its edits.

        They must be kept already, or numbers could be given to others.
        """
        if self._shelf is None:
            return patch
        return patch.with_bank(shelved(patch.bank, numbers, self._shelf))

    @torch.inference_mode(False)
    def extended(self, bank: Bank, numbers: Sequence[int]) -> Bank:
        """The bank with more edits, by their numbers."""
        bank = bank.with_room(len(numbers) + len(numbers) // 4)
        parts = [numbers[at : at + AT_A_TIME] for at in range(0, len(numbers), AT_A_TIME)]
        with ThreadPoolExecutor(READERS) as readers:
            read = readers.map if len(parts) > 1 else map
            for start in range(0, len(parts), READERS):  # few at once, for they take memory
                some = parts[start : start + READERS]
                for part, keys in zip(some, read(self._keys, some), strict=True):
                    bank = _appended(bank, keys, part)
        return bank

    def pack(self, bank: Bank, row: int) -> tuple[bytes, bytes]:
        """Keys and factors of one edit as bytes, in the layout of this version."""
        tensors = bank.select([row]).tensors()
        return self.layout.part(False).pack(tensors, 0), self.layout.part(True).pack(tensors, 0)

    def _keys(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        return self._read(numbers, "keys", self.layout.part(False))

    def _factors(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        return self._read(numbers, "factors", self.layout.part(True))

    def _read(self, numbers: Sequence[int], part: str, layout: Layout) -> dict[str, Tensor]:
        """A part of the tensors of edits, each (n, …), on their device."""
        rows = self.store.rows(numbers, part)
        full = layout.in_full()
        if full.size != layout.size and any(len(row) == full.size for row in rows):
            rows = [repacked(row, full, layout) if len(row) == full.size else row for row in rows]
        return {name: tensor.to(self._device) for name, tensor in layout.unpack(rows).items()}


def repacked(row: bytes, kept: Layout, wanted: Layout) -> bytes:
    """A row in another layout of the same tensors."""
    return wanted.pack(kept.unpack([row]), 0)


def _appended(bank: Bank, keys: Mapping[str, Tensor], numbers: Sequence[int]) -> Bank:
    """The bank with more edits, by their keys and their numbers."""
    if isinstance(bank, ShelvedBank):
        return bank.append_shelved(keys, numbers)
    return bank.append(keys)
