"""Splits without leaks: what has anything in common goes to one part."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from hashlib import sha256

__all__ = ["joined", "share", "spread"]


def joined(marked: Sequence[Iterable[Hashable]]) -> list[int]:
    """The group of each item: items that share a mark, directly or through others, are together.

    A group is numbered by the first of its items.
    """
    parent = list(range(len(marked)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    first: dict[Hashable, int] = {}
    for number, marks in enumerate(marked):
        for mark in marks:
            one, other = sorted((root(number), root(first.setdefault(mark, number))))
            parent[other] = one
    return [root(number) for number in range(len(marked))]


def share(key: str, seed: int) -> float:
    """A number from 0 to 1 that a key always has with a seed."""
    return int(sha256(f"{seed} {key}".encode()).hexdigest()[:8], 16) / 0x1_0000_0000


def spread(groups: Sequence[str], shares: dict[str, float], seed: int) -> dict[str, list[str]]:
    """Groups by part, in numbers that keep to the ``shares``.

    Each group, in an order that depends on its key and the seed alone, goes to the part that lacks
    most; the first to the largest one.
    """
    parts: dict[str, list[str]] = defaultdict(list)
    for group in sorted(groups, key=lambda key: share(key, seed)):
        lacking = {part: wanted * len(groups) - len(parts[part]) for part, wanted in shares.items()}
        parts[max(lacking, key=lambda part: lacking[part])].append(group)
    return parts
