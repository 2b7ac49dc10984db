"""Shelf: keeps factors of experts outside of memory, and those that fired last in it.

A bank of 100,000 experts for a decoder of 7B has 3.3 GB of keys, which every query is compared
with, and 13.1 GB of factors, of which a query needs those of the few experts that fire.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Lock
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from liveedit.editors.common.bank import Bank

__all__ = ["Row", "Shelf", "ShelvedBank", "shelved"]

Row = dict[str, Tensor]
"""The factors of one expert by name."""
NEW = -1
"""Number of an expert that the shelf does not know yet."""
NONE: Mapping[int, Row] = MappingProxyType({})
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

    ``numbers`` (E,) are those by which the shelf knows the factors of each expert. Factors of
    experts that were appended are in ``own``, by the expert's index, until :func:`shelved`.
    ``rows`` (E,) are the experts' rows in ``keys``, by default the first ones, in order: so experts
    that are left out move no keys.
    """

    def __init__(
        self,
        keys: Bank,
        numbers: Tensor,
        shelf: Shelf,
        own: Mapping[int, Row] = NONE,
        rows: Tensor | None = None,
    ) -> None:
        self.keys = keys
        self.numbers = numbers
        self.shelf = shelf
        self.own = own
        self.rows = rows

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process, which does not have the shelf, gets all factors."""
        return Bank, (self.tensors(),)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, name: str) -> Tensor:
        """See :meth:`Bank.__getitem__`. Reads the factors of all experts if ``name`` is one."""
        if name not in self.shelf.empty:
            return self.keys[name] if self.rows is None else self.keys[name][self.rows]
        [found] = self.gather([name], torch.arange(len(self)))
        return found

    def tensors(self) -> dict[str, Tensor]:
        """See :meth:`Bank.tensors`. Reads the factors of all experts."""
        names = tuple(self.shelf.empty)
        factors = self.gather(names, torch.arange(len(self)))
        keys = {name: self[name] for name in self.keys.shapes}
        return keys | dict(zip(names, factors, strict=True))

    def gather(self, names: Sequence[str], index: Tensor) -> tuple[Tensor, ...]:
        """See :meth:`Bank.gather`; ``names`` are all factors, or none is."""
        if names[0] not in self.shelf.empty:
            return self.keys.gather(names, index if self.rows is None else self.rows[index])
        chosen = index.flatten().tolist()
        numbers = {place: int(self.numbers[place]) for place in chosen if place not in self.own}
        read = self.shelf.rows(numbers.values())
        rows = [self.own[at] if at in self.own else read[numbers[at]] for at in chosen]
        found = []
        for name in names:
            empty = self.shelf.empty[name]
            stacked = torch.stack([row[name] for row in rows]) if rows else empty
            found.append(stacked.reshape(*index.shape, *empty.shape[1:]))
        return tuple(found)

    def near(self, name: str, queries: Tensor, least: Tensor) -> Tensor:
        """See :meth:`Bank.near`."""
        return self._among_own(self.keys.near(name, queries, least))

    def nearest(self, name: str, queries: Tensor, most: int) -> Tensor:
        """See :meth:`Bank.nearest`; fewer where some of them are left out."""
        return self._among_own(self.keys.nearest(name, queries, most))

    def _among_own(self, found: Tensor) -> Tensor:
        """The experts whose keys are in some rows."""
        return found if self.rows is None else torch.isin(self.rows, found).nonzero()[:, 0]

    @property
    def elsewhere(self) -> set[str]:
        """See :attr:`Bank.elsewhere`; the shelf is part of this bank."""
        return set()

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
        empty = self.shelf.empty
        factors = {name: rows[name].detach().to(empty[name].dtype) for name in empty}
        keys = {name: rows[name] for name in rows if name not in factors}
        keys |= {name: rows[name] for name in self.keys.elsewhere}
        count = len(next(iter(rows.values())))
        new = {
            len(self) + at: {name: tensor[at].clone() for name, tensor in factors.items()}
            for at in range(count)
        }
        return self._grown_by(keys, torch.full((count,), NEW), {**self.own, **new})

    def append_shelved(self, keys: Mapping[str, Tensor], numbers: Sequence[int]) -> "ShelvedBank":
        """A bank with more experts, given by their keys (n, …) and their numbers on the shelf."""
        return self._grown_by(keys, torch.tensor(numbers, dtype=torch.long), self.own)

    def _grown_by(
        self, keys: Mapping[str, Tensor], numbers: Tensor, own: Mapping[int, Row]
    ) -> "ShelvedBank":
        """A bank with more experts, given by their keys and numbers."""
        grown = self.keys.append(keys)
        rows = self.rows
        if rows is not None:
            rows = torch.cat([rows, torch.arange(len(self.keys), len(grown), device=rows.device)])
        return ShelvedBank(grown, torch.cat([self.numbers, numbers]), self.shelf, own, rows)

    def with_room(self, count: int) -> "ShelvedBank":
        """See :meth:`Bank.with_room`."""
        keys = self.keys.with_room(count)
        return ShelvedBank(keys, self.numbers, self.shelf, self.own, self.rows)

    def give_back(self, length: int) -> None:
        """See :meth:`Bank.give_back`."""
        self.keys.give_back(len(self.keys) - (len(self) - length))

    def select(self, index: Sequence[int] | slice | Tensor) -> "ShelvedBank":
        """See :meth:`Bank.select`. Keys are copied where most of them are left out."""
        places = self.places(index)
        numbers = self.numbers[places]
        own = {}
        for at in torch.isin(places, torch.tensor(list(self.own))).nonzero()[:, 0].tolist():
            own[at] = self.own[int(places[at])]
        here = places.to(self.device)
        rows = here if self.rows is None else self.rows[here]
        keys = self.keys
        if 2 * len(rows) < len(keys) or torch.equal(rows.cpu(), torch.arange(len(rows))):
            return ShelvedBank(keys.select(rows), numbers, self.shelf, own)
        return ShelvedBank(keys, numbers, self.shelf, own, rows)

    def to(self, device: torch.device | str) -> Bank:
        """See :meth:`Bank.to`. Reads the factors of all experts for another device."""
        return self if self.device == torch.device(device) else super().to(device)


def shelved(bank: Bank, numbers: Sequence[int] | Tensor, shelf: Shelf) -> ShelvedBank:
    """The bank of the same experts, all of whose factors are on ``shelf``, by these numbers."""
    known = torch.as_tensor(numbers, dtype=torch.long)
    if isinstance(bank, ShelvedBank):
        shelf.keep({int(known[place]): row for place, row in bank.own.items()})
        return ShelvedBank(bank.keys, known, shelf, rows=bank.rows)
    tensors = bank.tensors()
    keys = Bank({name: tensor for name, tensor in tensors.items() if name not in shelf.empty})
    return ShelvedBank(keys, known, shelf)
