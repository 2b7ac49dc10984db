"""The tensors of an edit as bytes: its row of a bank's tensors, one after the other.

A layout says for each tensor its type and shape, and whether it is a *key*, which routing compares
with every query, or a *factor*, which is read when the edit fires.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any
from zlib import crc32

if TYPE_CHECKING:  # listing a store shall not wait for torch
    import torch
    from torch import Tensor

__all__ = ["Column", "Layout", "checksum"]


def checksum(*parts: bytes) -> int:
    """CRC-32 of bytes, one after the other."""
    found = 0
    for part in parts:
        found = crc32(part, found)
    return found


@dataclass(frozen=True, slots=True)
class Column:
    """One tensor of each row: its name, type and shape, and whether it is a factor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    factor: bool

    @property
    def type(self) -> "torch.dtype":
        """Its type."""
        import torch

        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @property
    def size(self) -> int:
        """Its bytes in one row."""
        return prod(self.shape) * self.type.itemsize


@dataclass(frozen=True, slots=True)
class Layout:
    """The tensors of every row."""

    columns: tuple[Column, ...]

    @classmethod
    def of(cls, tensors: "Mapping[str, Tensor]", factors: Sequence[str]) -> "Layout":
        """The layout of a bank's tensors (E, …); ``factors`` names those that are factors."""
        columns = []
        for name, tensor in sorted(tensors.items()):
            dtype = str(tensor.dtype).removeprefix("torch.")
            columns.append(Column(name, dtype, tuple(tensor.shape[1:]), name in factors))
        return cls(tuple(columns))

    @classmethod
    def from_json(cls, rows: Sequence[Sequence[Any]]) -> "Layout":
        """The layout that :meth:`to_json` gave."""
        return cls(tuple(Column(row[0], row[1], tuple(row[2]), row[3]) for row in rows))

    def to_json(self) -> list[list[Any]]:
        """The layout as JSON."""
        return [[c.name, c.dtype, list(c.shape), c.factor] for c in self.columns]

    def part(self, factors: bool) -> "Layout":
        """The keys alone, or the factors."""
        return Layout(tuple(c for c in self.columns if c.factor == factors))

    def in_full(self) -> "Layout":
        """The same tensors in full precision, as earlier versions kept them."""
        columns = []
        for column in self.columns:
            full = replace(column, dtype="float32") if column.dtype == "float16" else column
            columns.append(full)
        return Layout(tuple(columns))

    @property
    def size(self) -> int:
        """Bytes of one row."""
        return sum(column.size for column in self.columns)

    def pack(self, tensors: "Mapping[str, Tensor]", row: int) -> bytes:
        """One row of tensors (E, …) as bytes."""
        import torch

        parts = []
        for column in self.columns:
            value = tensors[column.name][row : row + 1].detach().to("cpu", column.type).contiguous()
            parts.append(value.view(torch.uint8).numpy().tobytes())
        return b"".join(parts)

    def unpack(self, rows: Sequence[bytes]) -> "dict[str, Tensor]":
        """Rows of bytes as tensors (E, …)."""
        import torch

        size = self.size
        if not size:
            return {c.name: torch.empty(len(rows), *c.shape, dtype=c.type) for c in self.columns}
        buffer = torch.frombuffer(bytearray().join(rows), dtype=torch.uint8).view(-1, size)
        found = {}
        start = 0
        for column in self.columns:
            part = buffer[:, start : start + column.size]
            part = part.clone(memory_format=torch.contiguous_format)  # aligned
            found[column.name] = part.view(column.type).reshape(len(rows), *column.shape)
            start += column.size
        return found
