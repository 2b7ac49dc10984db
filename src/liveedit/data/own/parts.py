"""The parts of an own benchmark: train, val and test, and in the last two what is not edited."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from liveedit.data.own.items import Item, Part, marks
from liveedit.data.own.splits import joined, share, spread
from liveedit.errors import BadInput

__all__ = ["LEAST", "PARTS", "divided"]

LEAST = 12
"""Corrections with nothing in common that a benchmark needs."""
PARTS: tuple[Part, ...] = ("train", "val", "test")
SHARES: dict[str, float] = dict(zip(PARTS, (0.6, 0.1, 0.3), strict=True))
"""Shares of the groups in each part."""
UNEDITED = 8
"""One in so many groups of val and test is not edited; of fewer than :data:`FEW`, none."""
HELD_BACK = 0.5
"""Share of the things with several facts of which one is not edited."""
FEW = 3
"""Groups of a part from which on some are not edited."""


def divided(items: Sequence[Item], file: Path, seed: int) -> list[Item]:
    """The items with their parts, and whether they are edited.

    Raises :class:`BadInput` if they are too few.
    """
    groups = _groups(items)
    count = len(set(groups))
    if count < LEAST:
        raise BadInput(
            f"{file} has {count} corrections that share neither an image nor a question with its "
            f"answer, too few for train, val and test: add {LEAST - count} more"
        )
    parts = spread(sorted(set(groups)), SHARES, seed)
    part_of: dict[str, Part] = {}
    unedited: set[str] = set()
    for part, members in parts.items():
        part_of |= dict.fromkeys(members, part)  # type: ignore[arg-type]
        if part != "train" and len(members) >= FEW:
            unedited |= set(members[: max(1, len(members) // UNEDITED)])
    held_back = _facts_held_back(items, seed)
    divided = []
    for item, group in zip(items, groups, strict=True):
        part = part_of[group]
        edited = part == "train" or not (group in unedited or item.fact in held_back)
        divided.append(replace(item, part=part, edited=edited))
    return divided


def _groups(items: Sequence[Item]) -> list[str]:
    """The group of each item: the first id, by the alphabet, of all that share a mark with it."""
    numbers = joined([tuple(marks(item)) for item in items])
    first: dict[int, str] = {}
    for item, number in zip(items, numbers, strict=True):
        first[number] = min(item.id, first.get(number, item.id))
    return [first[number] for number in numbers]


def _facts_held_back(items: Sequence[Item], seed: int) -> set[str]:
    """One fact of some of the things about which several are corrected; it is not edited."""
    facts: dict[str, set[str]] = defaultdict(set)
    for item in items:
        if item.thing:
            facts[item.thing].add(item.fact)
    return {
        max(found)
        for thing, found in facts.items()
        if len(found) > 1 and share(thing, seed) < HELD_BACK
    }
