"""The random choices of LiveEdit's training for one batch, as released: experts and pairs.

They are drawn separately from the losses, so that a step can be replayed with recorded draws.

B is the number of examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from liveedit.editors.common.examples import EDIT, RowName

__all__ = ["Draws", "Pairs", "draw"]

Choice = TypeVar("Choice")


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of rows: row ``inputs[i]`` is compared as an input with row ``edits[i]`` as an edit."""

    inputs: list[RowName]
    edits: list[RowName]


@dataclass(frozen=True, slots=True)
class Draws:
    """The random choices for one batch.

    Arguments:
        mixed: By kind, which of the batch's experts each example mixes, boolean (B, B).
        neighbours: Pairs whose routing has to match.
        unrelated: Pairs that must not match, for which the sentinel must win.
        generator: Source of all further random choices, such as the tokens that are dropped.
    """

    mixed: dict[str, Tensor]
    neighbours: Pairs
    unrelated: Pairs
    generator: torch.Generator = field(default_factory=torch.Generator)


def draw(
    rows: Sequence[Sequence[str]],
    generality: Sequence[str],
    locality: Sequence[str],
    generator: torch.Generator,
) -> Draws:
    """Draw for a batch whose example j has rows with an image of the kinds ``rows[j]``.

    The edit itself is among them. Each example mixes the experts of a random prefix of the batch,
    of length 0 to B; its edit and its generality rows mix its own expert as well. A neighbour pair
    has its input from the edit, the generality or the locality rows, a third each, and its partner
    from the same example, where edit and generality are one neighbourhood and locality another. An
    unrelated pair joins the two neighbourhoods, either way round.
    """
    count = len(rows)
    own = torch.eye(count, dtype=torch.bool)
    general = _prefixes(count, generator) | own
    mixed = {EDIT: _prefixes(count, generator) | own}
    mixed |= dict.fromkeys(generality, general)
    mixed |= dict.fromkeys(locality, _prefixes(count, generator))
    neighbours = Pairs([], [])
    unrelated = Pairs([], [])
    for j, kinds in enumerate(rows):
        general_kinds = [kind for kind in generality if kind in kinds]
        outside = [kind for kind in locality if kind in kinds]
        inside = [group for group in ([EDIT], general_kinds) if group]
        group = _pick([*inside, outside] if outside else inside, generator)
        neighbours.inputs.append((_pick(group, generator), j))
        partners = outside if group is outside else _pick(inside, generator)
        neighbours.edits.append((_pick(partners, generator), j))
        if outside:
            pair = [_pick(_pick(inside, generator), generator), _pick(outside, generator)]
            first = _pick([0, 1], generator)
            unrelated.inputs.append((pair[first], j))
            unrelated.edits.append((pair[1 - first], j))
    return Draws(mixed, neighbours, unrelated, generator)


def _pick(choices: Sequence[Choice], generator: torch.Generator) -> Choice:
    """One of the choices, uniformly."""
    return choices[int(torch.randint(len(choices), (), generator=generator))]


def _prefixes(count: int, generator: torch.Generator) -> Tensor:
    """Boolean (count, count): each row true up to a length drawn from 0 to count."""
    lengths = torch.randint(count + 1, (count, 1), generator=generator)
    return torch.arange(count) < lengths
