"""Benchmarks: where the cases come from. Importing this package loads nothing heavy."""

from typing import TYPE_CHECKING, Literal

from liveedit.registry import resolve

if TYPE_CHECKING:
    from liveedit.types import Case

__all__ = ["BENCHMARKS", "TITLES", "load_cases"]

BENCHMARKS: dict[str, str] = {
    "emblem": "liveedit.data.emblem_cases:counterfactuals",
    "emblem-corrections": "liveedit.data.emblem_cases:corrections",
}
"""Name to the function (part, seed) that makes the cases."""

TITLES: dict[str, str] = {
    "emblem": "flags and emoji drawn by several hands; edits make them answered as something else",
    "emblem-corrections": "the same drawings where the embedded model is wrong; edits give the true answer",
}


def load_cases(name: str, part: Literal["train", "val", "test"], seed: int = 0) -> "list[Case]":
    """The cases of one split of a benchmark, in the order of ``seed``. Raises :class:`UnknownName` for another name."""
    cases: list[Case] = resolve("benchmark", name, BENCHMARKS)(part, seed)
    return cases
