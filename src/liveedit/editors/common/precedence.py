"""Precedence: the owner's last word holds. Which edits of a pool stand, and which give way where
several fire.

An edit supersedes the earlier ones of the same question about the same images: they are kept, but
never take part; once it is taken back, the latest of them stands again. An edit in conflict with an
earlier one, of the same question with another answer about another picture of the thing, overrules
it: where both fire, it alone takes part.

A ledger says so of every edit of a pool: ``asked`` (E,), a number for the question and its images,
and ``overrules`` (E, W), the ``asked`` of the earlier edits that give way, 0 for none.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from liveedit.data.images import picture_hash
from liveedit.editors.common.bank import Bank
from liveedit.question import number
from liveedit.types import Query

__all__ = [
    *("COLUMNS", "about", "asked", "entries", "extended", "overruling"),
    *("settled", "standing", "unknown"),
]

COLUMNS = ("asked", "overrules")

WIDTH = 4
"""W of a new ledger; it grows with the most edits that one overrules."""


def asked(query: Query) -> int:
    """The :func:`number` of a query."""
    return number(query.prompt, picture_hash(query.images), about(query))


def about(query: Query) -> int | None:
    """Which of the images the query is about, each place in one form: counted from 0, but the last,
    or only, one -1.
    """
    if len(query.images) < 2:
        return -1
    if query.about is None:
        return None
    place = query.about % len(query.images)
    return -1 if place == len(query.images) - 1 else place


def entries(numbers: Sequence[int], width: int = WIDTH) -> dict[str, Tensor]:
    """The ledger's rows of edits that overrule none."""
    return {
        "asked": torch.tensor(numbers, dtype=torch.long),
        "overrules": torch.zeros(len(numbers), width, dtype=torch.long),
    }


def extended(ledger: Bank, queries: Sequence[Query]) -> Bank:
    """The ledger with edits of these queries behind the others; they overrule none."""
    return ledger.append(entries([asked(query) for query in queries], ledger["overrules"].shape[1]))


def overruling(ledger: Bank, conflicts: Mapping[int, Sequence[int]]) -> Bank:
    """The ledger with edits at some places overruling earlier ones at others."""
    numbers = {
        place: sorted(set(ledger["asked"][list(older)].tolist()))
        for place, older in conflicts.items()
    }
    overrules = ledger["overrules"]
    wider = max(len(older) for older in numbers.values()) - overrules.shape[1]
    overrules = F.pad(overrules, (0, max(0, wider)))
    for place, older in numbers.items():
        overrules[place, : len(older)] = torch.tensor(older)
    return Bank({"asked": ledger["asked"], "overrules": overrules})


def unknown(count: int) -> Bank:
    """The ledger of edits of which nothing is known: all of them stand."""
    own = -1 - torch.arange(count)
    return Bank({"asked": own, "overrules": torch.zeros(count, WIDTH, dtype=torch.long)})


def standing(ledger: Bank) -> Tensor:
    """Which edits (E,) are not superseded: the last of each question."""
    places = torch.arange(len(ledger))
    if not len(ledger):
        return places.bool()
    _, group = torch.unique(ledger["asked"], return_inverse=True)
    last = torch.full_like(places, -1).scatter_reduce(0, group, places, "amax")
    return last[group] == places


def settled(ledger: Bank, fired: Tensor) -> Tensor:
    """Of the edits that fire for each query, boolean (B, E), those that no other of them overrules."""
    strict = ledger["overrules"].any(1).nonzero()[:, 0].to(fired.device)
    if not len(strict) or not bool(fired[:, strict].any()):
        return fired
    numbers, kept = ledger["asked"].to(fired.device), fired.clone()
    for row, place in fired[:, strict].nonzero().tolist():
        overruled = ledger["overrules"][strict[place]].to(fired.device)
        older = torch.arange(len(numbers), device=fired.device) < strict[place]
        kept[row] &= ~(torch.isin(numbers, overruled) & older)
    return kept
