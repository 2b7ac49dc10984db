"""Rows: the tensors of one editor's edits, from a store into banks.

The keys that images are compared with are in memory, once they were needed; of all edits there are
sketches (``editors/common/sketch.py``), which say whose keys are. Everything else is on a shelf,
which reads it when an edit fires. So a store of a million edits opens in seconds.

Sketches are kept in the store, in the directions of a basis that is learned from its edits, anew
as they become more (``sketch.due``). Edits without one, such as imported ones, are read whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import TypeVar

import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankPatch
from liveedit.editors.common.shelf import Shelf, ShelvedBank, shelved
from liveedit.editors.common.sketch import SAMPLE, SLAB, Sketch, due, learned_basis
from liveedit.store.store import Basis, Change, Store
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
        self.empty = empty
        self.layout = Layout.of(empty.bank.tensors(), empty.factors)
        on_shelf = (*empty.late, *empty.factors)
        self._shelf = Shelf({n: empty.bank[n] for n in on_shelf}, self._late) if on_shelf else None
        self._basis: Basis | None = None
        self._matrices: dict[int, dict[str, Tensor]] = {}
        """The directions of the newest basis, by its number."""
        self._resident = [name for name in empty.bank.shapes if name not in on_shelf]

    def settled(self, patch: P, numbers: Tensor) -> P:
        """The patch with the factors on the shelf; ``numbers`` are those of its edits.

        They must be kept already, or numbers could be given to others.
        """
        if self._shelf is None:
            return patch
        return patch.with_bank(shelved(patch.bank, numbers, self._shelf))

    @torch.inference_mode(False)
    def extended(self, bank: Bank, numbers: Sequence[int]) -> Bank:
        """The bank with more edits, by their numbers."""
        if self._shelf is not None and not len(bank):
            known = self._known_basis()
            if known and (sketches := self._sketches(known, len(numbers))):
                return self._opened(self._shelf, numbers, sketches, known)
        bank = bank.with_room(len(numbers) + len(numbers) // 4)
        for some, keys in self._in_parts(numbers):
            if isinstance(bank, ShelvedBank):
                keys = {n: keys[n] for n in keys if n in self._resident or n in bank.keys.elsewhere}
                bank = bank.append_shelved(keys, some)
            else:
                bank = bank.append(keys)
        return bank

    def pack(self, bank: Bank, row: int) -> tuple[bytes, bytes]:
        """Keys and factors of one edit as bytes, in the layout of this version."""
        tensors = bank.select([row]).tensors()
        return self.layout.part(False).pack(tensors, 0), self.layout.part(True).pack(tensors, 0)

    # Sketches

    def sketch_new(self, change: Change, bank: Bank, numbers: Mapping[int, int]) -> None:
        """Keep sketches of new edits, whose ``numbers`` are given by their places in a bank."""
        known = self._known_basis() if self.empty.searched else None
        if known and (sketches := self._sketches(known, 0)):
            places = torch.tensor(list(numbers))
            keys = {name: bank.gather([name], places)[0] for name in sketches}
            change.set_sketches(known.number, _packed(sketches, keys, list(numbers.values())))

    def is_due(self, count: int) -> bool:
        """Whether so many edits deserve a new basis."""
        if not self.empty.searched:
            return False
        known = self._known_basis()
        return due(count, known.learned_from if known else 0)

    def _known_basis(self) -> Basis | None:
        """The newest basis of these edits; its content is read once."""
        self._basis = self.store.basis(self.empty.editor.fingerprint, self._basis)
        return self._basis

    def learn(self, maker: int, numbers: Sequence[int]) -> None:
        """Learn a basis from edits, by their numbers, and keep their sketches in it."""
        sample = self._keys(numbers[:: max(1, len(numbers) // SAMPLE)])
        bases = {name: learned_basis(sample[name].flatten(1)) for name in self.empty.searched}
        sketches = {name: Sketch(basis, len(numbers)) for name, basis in bases.items()}
        content = bytes_of({name: basis.cpu() for name, basis in bases.items()})
        with self.store.upkeep() as change:
            number = change.add_basis(maker, len(numbers), content)
            for some, keys in self._in_parts(numbers):
                change.set_sketches(number, _packed(sketches, keys, some))

    def _sketches(self, basis: Basis, room: int) -> dict[str, Sketch]:
        """Sketches without edits in a basis; none where it is one of keys of other widths."""
        if basis.number not in self._matrices:
            device = self.empty.bank.device
            matrices = {n: matrix.to(device) for n, matrix in tensors_of(basis.content).items()}
            self._matrices = {basis.number: matrices}
        widths = {name: prod(self.empty.bank.shapes[name]) for name in self.empty.searched}
        matrices = self._matrices[basis.number]
        if {name: len(matrix) for name, matrix in matrices.items()} != widths:
            return {}
        room += room // 4
        return {n: Sketch(matrices[n], basis.learned_from, room) for n in widths}

    def _opened(
        self, shelf: Shelf, numbers: Sequence[int], sketches: dict[str, Sketch], basis: Basis
    ) -> ShelvedBank:
        """A bank of edits, by their numbers, that are read when they are needed."""
        every = torch.tensor(numbers, dtype=torch.long)
        rows = self.store.sketches(basis.number)
        places = torch.searchsorted(every, torch.tensor([edit for edit, _ in rows]).long())
        kept: dict[int, bytes] = {}
        for place, (edit, content) in zip(places.tolist(), rows, strict=True):
            if place < len(numbers) and numbers[place] == edit:
                kept[place] = content
        for start in range(0, len(numbers), SLAB):
            some = range(start, min(start + SLAB, len(numbers)))
            without = [place for place in some if place not in kept]
            for part, keys in self._in_parts([numbers[place] for place in without]):
                packed = _packed(sketches, keys, part)
                kept |= {int(torch.searchsorted(every, n)): row for n, row in packed.items()}
            _append(sketches, [kept.pop(place) for place in some])
        empty = self.empty.bank
        room = len(numbers) + len(numbers) // 4
        tensors = {
            name: empty[name].new_empty(room, *empty.shapes[name]) for name in self._resident
        }

        def read(places: Tensor) -> Mapping[str, Tensor]:
            keys = self._keys(every[places].tolist())
            return {name: keys[name] for name in self._resident}

        return ShelvedBank(Bank.read_later(tensors, len(every), read, sketches), every, shelf)

    # Reading

    def _in_parts(
        self, numbers: Sequence[int]
    ) -> Iterator[tuple[Sequence[int], dict[str, Tensor]]]:
        """The keys of edits by their numbers, in parts, which several threads read."""
        parts = [numbers[at : at + AT_A_TIME] for at in range(0, len(numbers), AT_A_TIME)]
        with ThreadPoolExecutor(READERS) as readers:
            read = readers.map if len(parts) > 1 else map
            for start in range(0, len(parts), READERS):  # few at once, for they take memory
                some = parts[start : start + READERS]
                yield from zip(some, read(self._keys, some), strict=True)

    def _keys(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        return self._read(numbers, "keys", self.layout.part(False))

    def _late(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """All that is on the shelf."""
        found = self._read(numbers, "factors", self.layout.part(True))
        if self.empty.late:
            keys = self._keys(numbers)
            found |= {name: keys[name] for name in self.empty.late}
        return found

    def _read(self, numbers: Sequence[int], part: str, layout: Layout) -> dict[str, Tensor]:
        """A part of the tensors of edits, each (n, …), on their device."""
        rows = self.store.rows(numbers, part)
        full = layout.in_full()
        if full.size != layout.size and any(len(row) == full.size for row in rows):
            rows = [repacked(row, full, layout) if len(row) == full.size else row for row in rows]
        device = self.empty.bank.device
        return {name: tensor.to(device) for name, tensor in layout.unpack(rows).items()}


def _packed(
    sketches: Mapping[str, Sketch], keys: Mapping[str, Tensor], numbers: Sequence[int]
) -> dict[int, bytes]:
    """The sketches of edits as bytes, by their numbers, given their keys (n, …)."""
    parts = [sketch.reduced(keys[name].flatten(1)) for name, sketch in sketches.items()]
    rows = torch.cat(parts, 1).cpu()
    return {n: row.numpy().tobytes() for n, row in zip(numbers, rows, strict=True)}


def _append(sketches: Mapping[str, Sketch], rows: Sequence[bytes]) -> None:
    """Add edits to sketches, given as :func:`_packed` gave them."""
    widths = [sketch.width for sketch in sketches.values()]
    packed = torch.frombuffer(bytearray().join(rows), dtype=torch.float16).view(len(rows), -1)
    stop = 0
    for sketch, width in zip(sketches.values(), widths, strict=True):
        sketch.append(packed[:, stop : stop + width].to(sketch.basis.device))
        stop += width


def repacked(row: bytes, kept: Layout, wanted: Layout) -> bytes:
    """A row in another layout of the same tensors."""
    return wanted.pack(kept.unpack([row]), 0)
