"""Bank: what lifelong patches share, named tensors with a leading expert axis.

Appending costs as much as what is appended, not as what is there: banks share one growing buffer,
as slices do in Go. A bank is a prefix of its buffer and never changes; the first to append to the
end of a full prefix writes in place, any other gets a buffer of its own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from liveedit.artifacts import read_tensors, write_tensors
from liveedit.errors import BadInput, Mismatch

__all__ = ["Bank"]


class _Buffer:
    """Tensors with room for more rows than are in use; ``used`` rows belong to some bank already."""

    def __init__(self, tensors: dict[str, Tensor], used: int) -> None:
        self.tensors, self.used, self.lock = tensors, used, Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Buffer, (self.tensors, self.used)

    @property
    def capacity(self) -> int:
        return len(next(iter(self.tensors.values())))

    def claim(self, start: int, stop: int) -> bool:
        """Take the rows ``start`` to ``stop`` if they are free and there is room; whether that went
        well.
        """
        with self.lock:
            free = self.used == start and stop <= self.capacity
            if free:
                self.used = stop
            return free


class Bank:
    """An immutable list of experts, each a row of every tensor.

    ``Bank(tensors)`` takes at least one float tensor, all of the same length. Raises
    :class:`Mismatch` otherwise.
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
        bank._buffer, bank._length = buffer, length
        return bank

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, name: str) -> Tensor:
        """One of the tensors, (E, …)."""
        return self._buffer.tensors[name][: self._length]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, each (E, …). Views: they must not be written to."""
        return {name: self[name] for name in self._buffer.tensors}

    @property
    def nbytes(self) -> int:
        """Bytes that the experts take up."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def append(self, rows: Mapping[str, Tensor]) -> "Bank":
        """A bank of these experts and behind them ``rows``, of the same names and shapes. Both
        share storage.

        Raises :class:`Mismatch` for other names or shapes.
        """
        self._check(rows)
        stop = len(self) + len(next(iter(rows.values())))
        buffer = self._buffer
        if not buffer.claim(len(self), stop):
            buffer = self._grown(stop)
        for name, tensor in rows.items():
            buffer.tensors[name][len(self) : stop] = tensor.detach()
        return self._prefix(buffer, stop)

    def _check(self, rows: Mapping[str, Tensor]) -> None:
        own = {name: tuple(tensor.shape[1:]) for name, tensor in self.tensors().items()}
        new = {name: tuple(tensor.shape[1:]) for name, tensor in rows.items()}
        if own != new or len({len(tensor) for tensor in rows.values()}) != 1:
            raise Mismatch(f"experts of the shapes {new} do not fit a bank of {own}")

    def _grown(self, needed: int) -> _Buffer:
        """A copy with room for at least ``needed`` rows, all of them taken."""
        capacity = max(needed, 2 * len(self))
        grown = {}
        for name, tensor in self.tensors().items():
            grown[name] = tensor.new_empty(capacity, *tensor.shape[1:])
            grown[name][: len(self)] = tensor
        return _Buffer(grown, needed)

    def select(self, index: Sequence[int] | slice | Tensor) -> "Bank":
        """The experts at ``index``, in that order; a boolean tensor keeps those that are true.

        Copied, but for a range from the first on, which shares storage.
        """
        if isinstance(index, range) and index == range(len(index)) and len(index) <= len(self):
            return self._prefix(self._buffer, len(index))
        if not isinstance(index, slice):
            index = (
                index.cpu() if isinstance(index, Tensor) else torch.tensor(index, dtype=torch.long)
            )
        device = next(iter(self._buffer.tensors.values())).device
        place = torch.arange(len(self))[index].to(device)
        return Bank({name: tensor[place] for name, tensor in self.tensors().items()})

    def to(self, device: torch.device | str) -> "Bank":
        """The same experts on ``device``; this bank itself if they are there already."""
        tensors = self.tensors()
        if all(tensor.device == torch.device(device) for tensor in tensors.values()):
            return self
        return Bank({name: tensor.to(device) for name, tensor in tensors.items()})

    def save(self, file: Path, about: Mapping[str, str]) -> None:
        """Write the experts to a safetensors file, ``about`` beside them, as :func:`write_tensors`
        does.
        """
        write_tensors(
            file, {name: tensor.cpu().clone() for name, tensor in self.tensors().items()}, about
        )

    @classmethod
    def load(cls, file: Path) -> tuple["Bank", dict[str, str]]:
        """What :meth:`save` wrote: the bank and what was put beside it.

        Raises :class:`BadInput` for a file that is missing, cut off, damaged or something else.
        """
        tensors, about = read_tensors(file)
        if not tensors:
            raise BadInput(
                f"{file} holds no experts: it is damaged, restore it from a copy or make the edits again"
            )
        try:
            return cls(tensors), about
        except Mismatch as error:
            raise BadInput(
                f"{file} is damaged ({error}): restore it from a copy, or make the edits again"
            ) from None
