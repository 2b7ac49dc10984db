"""Bank: named tensors with a leading expert axis, one row for each edit.

The cost of appending depends on the new rows alone: banks share one growing buffer, as slices do in
Go. A bank is a prefix of its buffer and never changes. The first bank to append after the last row
in use writes in place; any other gets a buffer of its own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Self

import torch
from torch import Tensor

from liveedit.artifacts import read_tensors, write_tensors
from liveedit.editors.common.sketch import Sketch, due, learned_basis
from liveedit.errors import BadInput, Mismatch

__all__ = ["Bank"]

SLAB = 4096
"""Rows that are sketched at a time, which bounds the memory that takes."""


class _Buffer:
    """Tensors with room for more rows; the first ``used`` rows belong to some bank already."""

    def __init__(self, tensors: dict[str, Tensor], used: int) -> None:
        self.tensors = tensors
        self.used = used
        self.lock = Lock()
        self.sketches: dict[str, Sketch] = {}
        """Sketches of tensors that are searched, as far as they were needed."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _Buffer, (self.tensors, self.used)

    @property
    def capacity(self) -> int:
        return len(next(iter(self.tensors.values())))

    def claim(self, start: int, stop: int) -> bool:
        """Reserve the rows ``start`` to ``stop``; false if they are in use or beyond the end."""
        with self.lock:
            free = self.used == start and stop <= self.capacity
            if free:
                self.used = stop
            return free

    @torch.inference_mode(False)
    @torch.no_grad()
    def sketch(self, name: str, count: int) -> Sketch | None:
        """A sketch of at least the first ``count`` rows of a tensor; ``None`` for few rows."""
        with self.lock:
            found = self.sketches.get(name)
            rows = self.tensors[name][:count].flatten(1)
            if due(count, found.learned_from if found else 0):
                found = Sketch(learned_basis(rows), count, self.capacity)
                self.sketches[name] = found
            if found is not None:
                for start in range(found.length, count, SLAB):
                    found.append(found.reduced(rows[start : start + SLAB]))
            return found

    def release(self, start: int, stop: int) -> None:
        """Free the rows ``start`` to ``stop``, unless rows after them are in use."""
        with self.lock:
            if self.used == stop:
                self.used = start
                for sketch in self.sketches.values():
                    sketch.cut(start)


class Bank:
    """An immutable list of experts, each a row of every tensor.

    Raises :class:`Mismatch` unless there is a tensor, and all have the same length.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        lengths = {len(tensor) for tensor in tensors.values()}
        if len(lengths) != 1:
            raise Mismatch(f"the tensors of a bank differ in length: {sorted(lengths)}")
        self._length = lengths.pop()
        self._buffer = _Buffer(
            {name: tensor.detach().contiguous() for name, tensor in tensors.items()}, self._length
        )

    @classmethod
    def _prefix(cls, buffer: _Buffer, length: int) -> "Bank":
        bank = cls.__new__(cls)
        bank._buffer = buffer
        bank._length = length
        return bank

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, name: str) -> Tensor:
        """One of the tensors, (E, …)."""
        return self._buffer.tensors[name][: self._length]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """This bank itself: it never changes, so copies of a patch share it."""
        return self

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, each (E, …). Views: they must not be written to."""
        return {name: self[name] for name in self._buffer.tensors}

    def gather(self, names: Sequence[str], index: Tensor) -> tuple[Tensor, ...]:
        """The rows at ``index``, of any shape, of some tensors: each (*index.shape, …)."""
        return tuple(self[name][index] for name in names)

    def near(self, name: str, queries: Tensor, least: Tensor) -> Tensor:
        """The experts (n,) whose row of a tensor may have an inner product with one of ``queries``
        (B, d) above its ``least`` (B,): all that have one, and few others.
        """
        sketch = self._buffer.sketch(name, self._length)
        if sketch is None:
            return torch.arange(len(self), device=self.device)
        bounds = sketch.bounds(queries, len(self))
        return (bounds > least[:, None]).any(0).nonzero()[:, 0]

    def nearest(self, name: str, queries: Tensor, most: int) -> Tensor:
        """The ``most`` experts (n,) whose row of a tensor is likely nearest to any of ``queries``
        (B, d), by their bounds; all where they are few.
        """
        sketch = self._buffer.sketch(name, self._length)
        if sketch is None:
            return torch.arange(len(self), device=self.device)
        bounds = sketch.bounds(queries, len(self)).amax(0)
        return bounds.topk(min(most, len(self))).indices

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of an expert's row of each tensor."""
        return {name: tuple(tensor.shape[1:]) for name, tensor in self._buffer.tensors.items()}

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return next(iter(self._buffer.tensors.values())).device

    @property
    def nbytes(self) -> int:
        """Bytes that the experts take up."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def append(self, rows: Mapping[str, Tensor]) -> "Bank":
        """A bank of these experts followed by ``rows``; both banks share storage.

        Raises :class:`Mismatch` for rows of other names or shapes.
        """
        self._check(rows)
        stop = len(self) + len(next(iter(rows.values())))
        buffer = self._buffer
        if not buffer.claim(len(self), stop):
            buffer = self._grown(stop)
            buffer.used = stop
        for name, tensor in rows.items():
            buffer.tensors[name][len(self) : stop] = tensor.detach()
        return self._prefix(buffer, stop)

    def with_room(self, count: int) -> "Bank":
        """The same experts, with storage for at least ``count`` more."""
        needed = len(self) + count
        enough = needed <= self._buffer.capacity
        return self if enough else self._prefix(self._grown(needed), len(self))

    def give_back(self, length: int) -> None:
        """Free the rows after the first ``length``, when no bank with them is used any more."""
        self._buffer.release(length, len(self))

    def _check(self, rows: Mapping[str, Tensor]) -> None:
        own = self.shapes
        new = {name: tuple(tensor.shape[1:]) for name, tensor in rows.items()}
        if own != new or len({len(tensor) for tensor in rows.values()}) != 1:
            raise Mismatch(f"experts of the shapes {new} do not fit a bank of {own}")

    def _grown(self, needed: int) -> _Buffer:
        """A copy with room for at least ``needed`` rows."""
        capacity = max(needed, 2 * len(self))
        grown = {}
        for name, tensor in self.tensors().items():
            grown[name] = tensor.new_empty(capacity, *tensor.shape[1:])
            grown[name][: len(self)] = tensor
        made = _Buffer(grown, len(self))
        with self._buffer.lock:
            for name, sketch in self._buffer.sketches.items():
                made.sketches[name] = sketch.copy(len(self))
        return made

    def select(self, index: Sequence[int] | slice | Tensor) -> "Bank":
        """The experts at ``index``, in that order; a boolean tensor selects those that are true.

        They are copied, except for the first ones in their order, which share storage.
        """
        places = self.places(index)
        if torch.equal(places, torch.arange(len(places))):
            return self._prefix(self._buffer, len(places))
        rows = places.to(self.device)
        return Bank({name: tensor[rows] for name, tensor in self.tensors().items()})

    def places(self, index: Sequence[int] | slice | Tensor) -> Tensor:
        """The experts at ``index``, counted from 0, (n,), on the CPU."""
        if isinstance(index, Tensor):
            index = index.cpu()
        elif not isinstance(index, slice):
            index = torch.tensor(index, dtype=torch.long)
        return torch.arange(len(self))[index]

    def to(self, device: torch.device | str) -> "Bank":
        """The same experts on ``device``; this bank itself if they are there already."""
        tensors = self.tensors()
        if all(tensor.device == torch.device(device) for tensor in tensors.values()):
            return self
        return Bank({name: tensor.to(device) for name, tensor in tensors.items()})

    def save(self, file: Path, metadata: Mapping[str, str]) -> None:
        """Write the experts and ``metadata`` to a safetensors file (:func:`write_tensors`)."""
        tensors = {name: tensor.cpu().clone() for name, tensor in self.tensors().items()}
        write_tensors(file, tensors, metadata)

    @classmethod
    def load(cls, file: Path) -> tuple["Bank", dict[str, str]]:
        """The bank and the metadata that :meth:`save` wrote.

        Raises :class:`BadInput` for a file that is missing, truncated, damaged or something else.
        """
        tensors, metadata = read_tensors(file)
        if not tensors:
            raise BadInput(
                f"{file} holds no experts: it is damaged, restore it from a copy or make the edits "
                "again"
            )
        try:
            return cls(tensors), metadata
        except Mismatch as error:
            raise BadInput(
                f"{file} is damaged ({error}): restore it from a copy, or make the edits again"
            ) from None
