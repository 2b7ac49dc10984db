"""Shelf: keeps factors of experts outside of memory, and those that fired last in it.

A bank of 100,000 experts for a decoder of 7B has 3.3 GB of keys, which every query is compared
with, and 13.1 GB of factors, of which a query needs those of the few experts that fire.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from liveedit.editors.common.bank import Bank

__all__ = ["Row", "Shelf", "ShelvedBank", "shelved"]

Row = dict[str, Tensor]
"""The factors of one expert by name."""
ROOM = 1 << 28
"""Bytes of the factors that a shelf keeps in memory."""


class Shelf:
    """Factors by number, kept elsewhere; those used last stay in memory. For any number of threads.

    ``empty`` are the factors of no expert, each (0, …); ``read`` gets those of some numbers, each
    (n, …), in their order. What it raises, :meth:`rows` raises. No more than ``room`` bytes stay.
    """

    def __init__(
        self,
        empty: Mapping[str, Tensor],
        read: Callable[[Sequence[int]], Mapping[str, Tensor]],
        room: int = ROOM,
    ) -> None:
        self.empty = dict(empty)
        self._read = read
        self._places = room // max(1, self.row_bytes)
        self._hot: OrderedDict[int, Row] = OrderedDict()
        self._lock = Lock()

    @property
    def row_bytes(self) -> int:
        """Bytes of one expert's factors."""
        return sum(rows.new_empty(1, *rows.shape[1:]).nbytes for rows in self.empty.values())

    def __len__(self) -> int:
        """How many experts' factors are in memory."""
        return len(self._hot)

    def rows(self, numbers: Iterable[int]) -> dict[int, Row]:
        """Factors by their numbers; those that are not in memory are read together."""
        wanted = dict.fromkeys(numbers)
        with self._lock:
            found = {number: self._hot[number] for number in wanted if number in self._hot}
        missing = [number for number in wanted if number not in found]
        if missing:
            found |= self._read_rows(missing)
        self.keep(found)
        return found

    @torch.inference_mode(False)
    def _read_rows(self, numbers: Sequence[int]) -> dict[int, Row]:
        """Factors that are read, each with memory of its own."""
        read = self._read(numbers)
        return {
            number: {name: tensor[at].clone() for name, tensor in read.items()}
            for at, number in enumerate(numbers)
        }

    def keep(self, rows: Mapping[int, Row]) -> None:
        """Keep factors in memory as those used last."""
        with self._lock:
            for number, row in rows.items():
                self._hot[number] = row
                self._hot.move_to_end(number)
            while len(self._hot) > self._places:
                self._hot.popitem(last=False)


class ShelvedBank(Bank):
    """A bank whose factors are on a shelf.

    For each expert ``held`` has the number under which the shelf knows its factors. Those of
    experts that were appended are there themselves until :func:`shelved`.
    """

    def __init__(self, keys: Bank, held: tuple[int | Row, ...], shelf: Shelf) -> None:
        self.keys = keys
        self.held = held
        self.shelf = shelf

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process, which does not have the shelf, gets all factors."""
        return Bank, (self.tensors(),)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, name: str) -> Tensor:
        """See :meth:`Bank.__getitem__`. Reads the factors of all experts if ``name`` is one."""
        if name not in self.shelf.empty:
            return self.keys[name]
        [found] = self.gather([name], torch.arange(len(self)))
        return found

    def tensors(self) -> dict[str, Tensor]:
        """See :meth:`Bank.tensors`. Reads the factors of all experts."""
        names = tuple(self.shelf.empty)
        factors = self.gather(names, torch.arange(len(self)))
        return self.keys.tensors() | dict(zip(names, factors, strict=True))

    def gather(self, names: Sequence[str], index: Tensor) -> tuple[Tensor, ...]:
        """See :meth:`Bank.gather`; ``names`` are all factors, or none is."""
        if names[0] not in self.shelf.empty:
            return self.keys.gather(names, index)
        chosen = [self.held[place] for place in index.flatten().tolist()]
        read = self.shelf.rows(held for held in chosen if isinstance(held, int))
        rows = [read[held] if isinstance(held, int) else held for held in chosen]
        found = []
        for name in names:
            empty = self.shelf.empty[name]
            stacked = torch.stack([row[name] for row in rows]) if rows else empty
            found.append(stacked.reshape(*index.shape, *empty.shape[1:]))
        return tuple(found)

    def near(self, name: str, queries: Tensor, least: Tensor) -> Tensor:
        """See :meth:`Bank.near`."""
        return self.keys.near(name, queries, least)

    def nearest(self, name: str, queries: Tensor, most: int) -> Tensor:
        """See :meth:`Bank.nearest`."""
        return self.keys.nearest(name, queries, most)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See :attr:`Bank.shapes`."""
        factors = {name: tuple(rows.shape[1:]) for name, rows in self.shelf.empty.items()}
        return self.keys.shapes | factors

    @property
    def device(self) -> torch.device:
        """See :attr:`Bank.device`."""
        return self.keys.device

    @property
    def nbytes(self) -> int:
        """See :attr:`Bank.nbytes`; those on the shelf included."""
        return self.keys.nbytes + len(self) * self.shelf.row_bytes

    def append(self, rows: Mapping[str, Tensor]) -> "ShelvedBank":
        """See :meth:`Bank.append`."""
        self._check(rows)
        factors = {name: rows[name].detach() for name in self.shelf.empty}
        keys = self.keys.append({name: rows[name] for name in rows if name not in factors})
        new = tuple(
            {name: tensor[at].clone() for name, tensor in factors.items()}
            for at in range(len(keys) - len(self))
        )
        return ShelvedBank(keys, self.held + new, self.shelf)

    def append_shelved(self, keys: Mapping[str, Tensor], numbers: Sequence[int]) -> "ShelvedBank":
        """A bank with more experts, given by their keys (n, …) and their numbers on the shelf."""
        return ShelvedBank(self.keys.append(keys), (*self.held, *numbers), self.shelf)

    def with_room(self, count: int) -> "ShelvedBank":
        """See :meth:`Bank.with_room`."""
        return ShelvedBank(self.keys.with_room(count), self.held, self.shelf)

    def give_back(self, length: int) -> None:
        """See :meth:`Bank.give_back`."""
        self.keys.give_back(length)

    def select(self, index: Sequence[int] | slice | Tensor) -> "ShelvedBank":
        """See :meth:`Bank.select`."""
        places = self.places(index)
        held = tuple(self.held[place] for place in places.tolist())
        return ShelvedBank(self.keys.select(places), held, self.shelf)

    def to(self, device: torch.device | str) -> Bank:
        """See :meth:`Bank.to`. Reads the factors of all experts for another device."""
        return self if self.device == torch.device(device) else super().to(device)


def shelved(bank: Bank, numbers: Sequence[int], shelf: Shelf) -> ShelvedBank:
    """The bank of the same experts, all of whose factors are on ``shelf``, by these numbers."""
    if isinstance(bank, ShelvedBank):
        new = {
            number: held
            for number, held in zip(numbers, bank.held, strict=True)
            if not isinstance(held, int)
        }
        shelf.keep(new)
        return ShelvedBank(bank.keys, tuple(numbers), shelf)
    keys = {name: bank[name] for name in bank.shapes if name not in shelf.empty}
    return ShelvedBank(Bank(keys), tuple(numbers), shelf)
