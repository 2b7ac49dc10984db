"""Bank: named tensors with a leading expert axis, one row for each edit.

The cost of appending depends on the new rows alone: banks share one growing buffer, as slices do in
Go. A bank is a prefix of its buffer and never changes. The first bank to append after the last row
in use writes in place; any other gets a buffer of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Self

import torch
from torch import Tensor

from liveedit.artifacts import read_tensors, write_tensors
from liveedit.editors.common.sketch import SLAB, Sketch, due, learned_basis
from liveedit.errors import BadInput, Mismatch

__all__ = ["Bank"]


Read = Callable[[Tensor], Mapping[str, Tensor]]
"""Reads rows (n,) of a bank's tensors, by their numbers."""


class _Buffer:
    """Tensors with room for more rows; the first ``used`` rows belong to some bank already.

    Where there is a function ``read``, the first ``unread`` rows are read when they are needed.
    """

    def __init__(
        self, tensors: dict[str, Tensor], used: int, read: Read | None = None, unread: int = 0
    ) -> None:
        self.tensors = tensors
        self.used = used
        self.read = read
        self.missing = torch.zeros(self.capacity if read else 0, dtype=torch.bool)
        """The rows that have not been read yet."""
        self.missing[:unread] = True
        self.lock = Lock()
        self.reading = Lock()
        self.sketches: dict[str, Sketch] = {}
        """Sketches of tensors that are searched, as far as they were needed; some of tensors that
        are kept elsewhere.
        """

    def __reduce__(self) -> tuple[Any, ...]:
        self.load(torch.arange(self.used))
        return _Buffer, (self.tensors, self.used)

    @torch.inference_mode(False)
    def load(self, rows: Tensor) -> None:
        """Read those of some rows that have not been read yet."""
        if self.read is None:
            return
        with self.reading:
            here = rows.flatten().cpu()
            wanted = here[self.missing[here]].unique()  # type: ignore[no-untyped-call]
            for some in wanted.split(SLAB) if len(wanted) else ():
                for name, values in self.read(some).items():
                    self.tensors[name][some] = values.to(self.tensors[name])
                self.missing[some] = False

    def grown(self, length: int, capacity: int) -> "_Buffer":
        """A copy of the first rows with room for more; of those that are read already."""
        here: slice | Tensor = slice(0, length)
        if self.read is not None:
            here = (~self.missing[:length]).nonzero()[:, 0]
        tensors = {}
        for name, tensor in self.tensors.items():
            tensors[name] = tensor.new_empty(capacity, *tensor.shape[1:])
            tensors[name][here] = tensor[here]
        made = _Buffer(tensors, length, self.read)
        made.missing[:length] = self.missing[:length]
        with self.lock:
            for name, sketch in self.sketches.items():
                made.sketches[name] = sketch.copy(length)
        return made

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
            if name not in self.tensors or (found and self.read and found.length >= count):
                return found
            rows = self.tensors[name][:count].flatten(1)
            if not self.read and due(count, found.learned_from if found else 0):
                found = Sketch(learned_basis(rows), count, self.capacity)
                self.sketches[name] = found
            if found is not None:
                for start in range(found.length, count, SLAB):
                    found.append(found.reduced(rows[start : start + SLAB]))
            return found

    @torch.no_grad()
    def sketch_elsewhere(self, rows: Mapping[str, Tensor]) -> None:
        """Add new rows to the sketches of tensors that are kept elsewhere."""
        with self.lock:
            for name, sketch in self.sketches.items():
                if name not in self.tensors:
                    sketch.append(sketch.reduced(rows[name].flatten(1)))

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
    def read_later(
        cls, tensors: dict[str, Tensor], count: int, read: Read, sketches: dict[str, Sketch]
    ) -> "Bank":
        """A bank of ``count`` experts, each read when it is needed.

        ``tensors`` have room for them, and ``sketches`` hold all of them.
        """
        buffer = _Buffer(tensors, count, read, count)
        buffer.sketches = sketches
        return cls._prefix(buffer, count)

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
        self._buffer.load(torch.arange(self._length))
        return self._buffer.tensors[name][: self._length]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """This bank itself: it never changes, so copies of a patch share it."""
        return self

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, each (E, …). Views: they must not be written to."""
        return {name: self[name] for name in self._buffer.tensors}

    def gather(self, names: Sequence[str], index: Tensor) -> tuple[Tensor, ...]:
        """The rows at ``index``, of any shape, of some tensors: each (*index.shape, …)."""
        self._buffer.load(index)
        return tuple(self._buffer.tensors[name][index] for name in names)

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
    def elsewhere(self) -> set[str]:
        """The tensors that are kept elsewhere, and have sketches here."""
        return self._buffer.sketches.keys() - self._buffer.tensors.keys()

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
        tensors = self._buffer.tensors.values()
        return sum(tensor[: self._length].nbytes for tensor in tensors)

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
        for name in buffer.tensors:
            buffer.tensors[name][len(self) : stop] = rows[name].detach()
        buffer.sketch_elsewhere(rows)
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
        new = {name: tuple(rows[name].shape[1:]) for name in rows if name in own}
        others = rows.keys() - own.keys() - self.elsewhere
        if own != new or others or len({len(tensor) for tensor in rows.values()}) != 1:
            raise Mismatch(f"experts of the shapes {new} do not fit a bank of {own}")

    def _grown(self, needed: int) -> _Buffer:
        """A copy with room for at least ``needed`` rows."""
        return self._buffer.grown(len(self), max(needed, 2 * len(self)))

    def select(self, index: Sequence[int] | slice | Tensor) -> "Bank":
        """The experts at ``index``, in that order; a boolean tensor selects those that are true.

        They are copied, except for the first ones in their order, which share storage.
        """
        places = self.places(index)
        if torch.equal(places, torch.arange(len(places))):
            return self._prefix(self._buffer, len(places))
        names = tuple(self._buffer.tensors)
        chosen = self.gather(names, places.to(self.device))
        return Bank(dict(zip(names, chosen, strict=True)))

    def places(self, index: Sequence[int] | slice | Tensor) -> Tensor:
        """The experts at ``index``, counted from 0, (n,), on the CPU."""
        if isinstance(index, Tensor):
            index = index.cpu()
        elif not isinstance(index, slice):
            index = torch.tensor(index, dtype=torch.long)
        return torch.arange(len(self))[index]

    def to(self, device: torch.device | str) -> "Bank":
        """The same experts on ``device``; this bank itself if they are there already."""
        own = self._buffer.tensors.values()
        if all(tensor.device == torch.device(device) for tensor in own):
            return self
        return Bank({name: tensor.to(device) for name, tensor in self.tensors().items()})

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
