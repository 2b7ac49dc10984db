"""Sketch: bounds the inner products of queries with many keys at a small part of their cost.

With an orthonormal basis P of a few directions, a query q and a key k,

    ⟨q, k⟩ = ⟨Pᵀq, Pᵀk⟩ + ⟨q_R, k_R⟩ ≤ ⟨Pᵀq, Pᵀk⟩ + ‖q_R‖ ‖k_R‖

where q_R and k_R are what P leaves of them (Cauchy–Schwarz). So a key whose bound does not exceed a
threshold cannot exceed it either: what is left out is left out for certain, unlike by approximate
search. The few others are compared exactly. P spans the directions in which the keys are largest
(their uncentred principal components), so that little is left beyond it.

Shapes: E keys, B queries, d width of a key, p directions of the basis.
"""

import torch
from torch import Tensor

__all__ = ["LEAST", "SAMPLE", "SLAB", "Sketch", "due", "learned_basis"]

DIRECTIONS = 127
"""p; with the length beyond them a key has 128 numbers, 512 bytes."""
LEAST = 256
"""Keys from which a basis is learned; fewer are all compared."""
AGAIN = 4
"""A basis is learned anew once there are this many times more keys, …"""
MOST = 16384
"""… up to so many."""
SAMPLE = 1024
"""Keys that a basis is learned from, evenly spaced."""
SLAB = 4096
"""Keys that are read or sketched at a time, which bounds the memory that takes."""
SLACK = 2**-10
"""Rounding that a bound allows for, as a share of the product of the lengths of query and key: half
precision changes a number by half of that at most.
"""
UP = 1 + 2**-10
"""Factor that rounds a length up to half precision."""
NOWHERE = -1e30
"""Length beyond the basis of a key that is NaN: its bound is below any threshold."""


def due(count: int, learned_from: int) -> bool:
    """Whether ``count`` keys deserve a new basis, given from how many the present one was learned.

    ``learned_from`` is 0 where there is none.
    """
    if not learned_from:
        return count >= LEAST
    return learned_from < MOST and count >= AGAIN * learned_from


@torch.no_grad()
def learned_basis(keys: Tensor) -> Tensor:
    """P (d, p), the directions in which keys (E, d) are largest; those that are NaN do not count.

    It comes from the Gram matrix of the keys, so that their width costs little.
    """
    some = keys[:: max(1, len(keys) // SAMPLE)][:SAMPLE].float()
    some = some[~some[:, 0].isnan()]
    values, vectors = torch.linalg.eigh(some @ some.T)
    kept = (values > values[-1:] * 1e-6).nonzero()[-DIRECTIONS:, 0]
    basis: Tensor = torch.linalg.qr(some.T @ (vectors[:, kept] / values[kept].sqrt()))[0]
    return basis.contiguous()


class Sketch:
    """The keys of a growing list in the directions of a basis (d, p), and their lengths beyond.

    The columns (p + 1, E) are never changed, but more are added behind them.
    """

    def __init__(self, basis: Tensor, learned_from: int, room: int = 0) -> None:
        self.basis = basis
        self.learned_from = learned_from
        """The number of keys when the basis was learned."""
        self.length = 0
        self.longest = 0.0
        """The length of the longest key."""
        self._columns = basis.new_empty(basis.shape[1] + 1, room)

    @property
    def width(self) -> int:
        """The numbers p + 1 of a key."""
        return self.basis.shape[1] + 1

    def reduced(self, keys: Tensor) -> Tensor:
        """Keys (n, d) as a sketch holds them, (n, p + 1), in half precision."""
        given = keys.float()
        missing = given[:, :1].isnan()
        given = given.nan_to_num()
        within = given @ self.basis
        beyond = (given - within @ self.basis.T).norm(dim=1, keepdim=True) * UP
        return torch.cat([within, beyond.masked_fill(missing, -torch.inf)], 1).half()

    def append(self, reduced: Tensor) -> None:
        """Add keys after the others, given as :meth:`reduced` (n, p + 1)."""
        stop = self.length + len(reduced)
        if stop > self._columns.shape[1]:
            grown = self._columns.new_empty(len(self._columns), max(stop, 2 * self.length))
            grown[:, : self.length] = self._columns[:, : self.length]
            self._columns = grown
        columns = reduced.float()
        columns[:, -1].clamp_(min=NOWHERE)
        self._columns[:, self.length : stop] = columns.T
        lengths = columns[columns[:, -1] >= 0].norm(dim=1)
        if len(lengths):
            self.longest = max(self.longest, float(lengths.max()))
        self.length = stop

    def cut(self, length: int) -> None:
        """Drop the keys after the first ``length``."""
        self.length = min(self.length, length)

    def copy(self, length: int) -> "Sketch":
        """A sketch of the first ``length`` keys with room of its own."""
        made = Sketch(self.basis, self.learned_from)
        made.append(self._columns[:, : min(length, self.length)].T)
        return made

    def bounds(self, queries: Tensor, count: int) -> Tensor:
        """For queries (B, d) bounds (B, count) on their inner products with the first keys."""
        within = queries @ self.basis
        beyond = (queries - within @ self.basis.T).norm(dim=1, keepdim=True)
        found = torch.cat([within, beyond], 1) @ self._columns[:, :count]
        return found.add_(queries.norm(dim=1, keepdim=True), alpha=SLACK * self.longest)
