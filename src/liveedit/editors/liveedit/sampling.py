"""What LiveEdit's training draws at random for a batch, as released: the experts mixed and the
pairs routed.

Drawn apart from the losses, so that a step can be replayed with recorded draws. B is the number of
examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["EDIT", "Draws", "Pairs", "RowName", "draw"]

Choice = TypeVar("Choice")

EDIT = "reliability"
"""The kind of the training rows that are the edits themselves."""

RowName = tuple[str, int]
"""A row of a training batch: its kind, the name of a metric, and the example it belongs to."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Rows whose input side meets the edit side of the row at the same place in the other list."""

    inputs: list[RowName]
    edits: list[RowName]


@dataclass(frozen=True, slots=True)
class Draws:
    """``mixed`` holds for each kind which of the batch's experts each example mixes, boolean (B,
    B).

    ``neighbours`` are pairs that belong together, ``strangers`` pairs that do not, for which the
    sentinel must win. ``dice`` goes on to draw the tokens that are dropped.
    """

    mixed: dict[str, Tensor]
    neighbours: Pairs
    strangers: Pairs
    dice: torch.Generator = field(default_factory=torch.Generator)


def draw(
    rows: Sequence[Sequence[str]],
    generality: Sequence[str],
    locality: Sequence[str],
    generator: torch.Generator,
) -> Draws:
    """Draw for a batch whose example j has rows with an image of the kinds ``rows[j]``, the edit
    itself among them.

    Each example mixes the experts of a random prefix of the batch, of length 0 to B; its edit and
    its generality rows mix its own as well. A neighbour pair has its input from the edit, the
    generality or the locality rows, a third each; its partner from the same example, edit and
    generality being one neighbourhood and locality another. A pair of strangers joins the two
    neighbourhoods, either way round.
    """
    count, dice = len(rows), _Dice(generator)
    own = torch.eye(count, dtype=torch.bool)
    general = _prefixes(count, generator) | own
    mixed = {EDIT: _prefixes(count, generator) | own} | dict.fromkeys(generality, general)
    mixed |= dict.fromkeys(locality, _prefixes(count, generator))
    neighbours, strangers = Pairs([], []), Pairs([], [])
    for j, kinds in enumerate(rows):
        groups = [
            [EDIT],
            [kind for kind in generality if kind in kinds],
            [kind for kind in locality if kind in kinds],
        ]
        inside, outside = [group for group in groups[:2] if group], groups[2]
        group = dice.pick([*inside, outside] if outside else inside)
        neighbours.inputs.append((dice.pick(group), j))
        neighbours.edits.append((dice.pick(outside if group is outside else dice.pick(inside)), j))
        if outside:
            pair = [dice.pick(dice.pick(inside)), dice.pick(outside)]
            first = dice.pick([0, 1])
            strangers.inputs.append((pair[first], j))
            strangers.edits.append((pair[1 - first], j))
    return Draws(mixed, neighbours, strangers, generator)


class _Dice:
    """Uniform choices out of one generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def pick(self, choices: Sequence[Choice]) -> Choice:
        return choices[int(torch.randint(len(choices), (), generator=self.generator))]


def _prefixes(count: int, generator: torch.Generator) -> Tensor:
    """Boolean (count, count): each row true up to a length drawn from 0 to count."""
    lengths = torch.randint(count + 1, (count, 1), generator=generator)
    return torch.arange(count) < lengths
