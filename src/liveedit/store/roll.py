"""Roll: the edits of a pool in the order in which they were made. A value.

A pool without a store holds them itself (:class:`ListedRoll`). The roll of a store holds their
numbers and reads of an edit what is asked for (:class:`StoredRoll`), so that neither memory nor
the time of a change grows with what is said about a million edits.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor

from liveedit.errors import BadInput
from liveedit.store.edit import Edit, resolved, spellings
from liveedit.store.store import Kept, Store

__all__ = ["ListedRoll", "Roll", "StoredRoll"]


class Roll(ABC):
    """The edits of a pool; those at some index are told apart by it."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def all(self) -> tuple[Edit, ...]:
        """All edits, as they were kept."""

    @abstractmethod
    def at(self, indices: Sequence[int]) -> list[Edit]:
        """The edits at some indices, as they were kept."""

    @abstractmethod
    def spellings(self, numbers: Iterable[int]) -> dict[int, str]:
        """The first spelling of each of these questions that has been asked, by its number."""

    @abstractmethod
    def latest(self, numbers: Iterable[int]) -> dict[int, str]:
        """The id of the latest edit of each of these questions, by the question's number."""

    @abstractmethod
    def named(self, ids: Iterable[str]) -> list[Edit]:
        """The edits with these ids, as far as they are among them."""

    @abstractmethod
    def find(self, id: str) -> int:
        """The index of the edit that an id, or its beginning, names.

        Raises :class:`BadInput` where it names none or several.
        """

    @abstractmethod
    def extended(self, edits: Sequence[Edit]) -> "Roll":
        """The roll with more edits."""

    @abstractmethod
    def select(self, indices: Sequence[int]) -> "Roll":
        """The edits at some indices, in order."""

    def resolved(self, indices: Sequence[int]) -> list[Edit]:
        """The edits at some indices with ``superseded_by``, and with conflicts in force."""
        found = self.at(indices)
        named = self.named(chain.from_iterable(edit.conflicts for edit in found))
        return list(resolved(found, self.latest({edit.number for edit in (*found, *named)})))


@dataclass(frozen=True)
class ListedRoll(Roll):
    """A roll that holds its edits."""

    edits: tuple[Edit, ...] = ()

    def __len__(self) -> int:
        return len(self.edits)

    def all(self) -> tuple[Edit, ...]:
        """See :meth:`Roll.all`."""
        return self.edits

    def at(self, indices: Sequence[int]) -> list[Edit]:
        """See :meth:`Roll.at`."""
        return [self.edits[index] for index in indices]

    def spellings(self, numbers: Iterable[int]) -> dict[int, str]:
        """See :meth:`Roll.spellings`."""
        known = spellings(self.edits)
        return {number: known[number] for number in numbers if number in known}

    def latest(self, numbers: Iterable[int]) -> dict[int, str]:
        """See :meth:`Roll.latest`."""
        last = {edit.number: edit.id for edit in self.edits}
        return {number: last[number] for number in numbers if number in last}

    def named(self, ids: Iterable[str]) -> list[Edit]:
        """See :meth:`Roll.named`."""
        wanted = set(ids)
        return [edit for edit in self.edits if edit.id in wanted] if wanted else []

    def find(self, id: str) -> int:
        """See :meth:`Roll.find`."""
        found = [index for index, edit in enumerate(self.edits) if id and edit.id.startswith(id)]
        if not found:
            raise BadInput(f"no edit {id!r}: `edits` lists those in force")
        if len(found) > 1:
            alike = ", ".join(self.edits[index].id for index in found)
            raise BadInput(f"{id!r} may be any of {alike}: give more of the id")
        return found[0]

    def extended(self, edits: Sequence[Edit]) -> "ListedRoll":
        """See :meth:`Roll.extended`."""
        return ListedRoll((*self.edits, *edits))

    def select(self, indices: Sequence[int]) -> "ListedRoll":
        """See :meth:`Roll.select`."""
        return ListedRoll(tuple(self.at(indices)))


@dataclass(frozen=True, eq=False)
class StoredRoll(Roll):
    """The edits of a store by their numbers (E,), and then ``new`` ones, which it does not have.

    ``version`` is the state of the store that they are read in.
    """

    store: Store
    numbers: Tensor
    version: int
    new: tuple[Edit, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers) + len(self.new)

    def all(self) -> tuple[Edit, ...]:
        """See :meth:`Roll.all`."""
        return (*self._all, *self.new)

    @cached_property
    def _all(self) -> tuple[Edit, ...]:
        """The edits that the store has; read once."""
        wanted = set(self.numbers.tolist())
        return tuple(row.edit for row in self.store.kept(self.version) if row.number in wanted)

    def at(self, indices: Sequence[int]) -> list[Edit]:
        """See :meth:`Roll.at`."""
        count = len(self.numbers)
        found = {row.number: row.edit for row in self.kept([i for i in indices if i < count])}
        return [
            found[int(self.numbers[index])] if index < count else self.new[index - count]
            for index in indices
        ]

    def kept(self, indices: Sequence[int]) -> list[Kept]:
        """The edits at some indices as the store keeps them."""
        return self.store.by_number(self.numbers[list(indices)].tolist())

    def spellings(self, numbers: Iterable[int]) -> dict[int, str]:
        """See :meth:`Roll.spellings`."""
        wanted = set(numbers)
        new = {edit.number: edit.prompt for edit in reversed(self.new) if edit.number in wanted}
        rows = reversed(self._of_questions(wanted))
        return new | {row.edit.number: row.edit.prompt for row in rows}

    def latest(self, numbers: Iterable[int]) -> dict[int, str]:
        """See :meth:`Roll.latest`."""
        wanted = set(numbers)
        rows = self._of_questions(wanted)
        found = {row.edit.number: row.edit.id for row in rows}
        return found | {edit.number: edit.id for edit in self.new if edit.number in wanted}

    def named(self, ids: Iterable[str]) -> list[Edit]:
        """See :meth:`Roll.named`."""
        wanted = set(ids)
        rows = [row for row in self.store.by_id(wanted) if self._has(row.number)]
        return [*(row.edit for row in rows), *(edit for edit in self.new if edit.id in wanted)]

    def find(self, id: str) -> int:
        """See :meth:`Roll.find`."""
        number = self.store.find(id, present=True).number
        if not self._has(number):
            raise BadInput(f"no edit {id!r}: `edits` lists those in force")
        return int(torch.searchsorted(self.numbers, number))

    def extended(self, edits: Sequence[Edit]) -> "StoredRoll":
        """See :meth:`Roll.extended`."""
        return StoredRoll(self.store, self.numbers, self.version, (*self.new, *edits))

    def select(self, indices: Sequence[int]) -> "StoredRoll":
        """See :meth:`Roll.select`."""
        places = torch.as_tensor(indices, dtype=torch.long)
        count = len(self.numbers)
        new = tuple(self.new[index - count] for index in places[places >= count].tolist())
        return StoredRoll(self.store, self.numbers[places[places < count]], self.version, new)

    def _of_questions(self, numbers: Iterable[int]) -> list[Kept]:
        """The edits of some questions that the roll has, oldest first."""
        return [row for row in self.store.of_questions(numbers) if self._has(row.number)]

    def _has(self, number: int) -> bool:
        """Whether an edit of the store is in the roll."""
        place = int(torch.searchsorted(self.numbers, number))
        return place < len(self.numbers) and int(self.numbers[place]) == number
