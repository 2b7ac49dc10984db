"""Parts of published benchmarks: which there are, and the order of their cases."""

import random
from collections.abc import Sequence

from liveedit.errors import BadInput
from liveedit.types import Case

__all__ = ["check_part", "in_order"]


def check_part(name: str, part: str, parts: Sequence[str] = ("train", "test")) -> None:
    """Raise :class:`BadInput` for a part with which a benchmark was not published."""
    if part not in parts:
        raise BadInput(f"{name} has no part '{part}': it was published as {' and '.join(parts)}")


def in_order(cases: Sequence[Case], name: str, part: str, seed: int) -> list[Case]:
    """The cases in the order of a seed; 0: in that of the file."""
    ordered = list(cases)
    if seed:
        random.Random(f"{name} {part} {seed}").shuffle(ordered)
    return ordered
