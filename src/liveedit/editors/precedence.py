"""Precedence: the owner's last word holds. Which edits of a pool stand, and which give way where several fire.

An edit supersedes the earlier ones of the same question about the same images: they are kept, but never take part; once
it is taken back, the latest of them stands again. An edit in conflict with an earlier one, of the same question with
another answer about another picture of the thing, overrules it: where both fire, it alone takes part.

A ledger says so of every edit of a pool: ``asked`` (E,), a number for the question and its images, and ``overrules``
(E, OVERRULED), the ``asked`` of the earlier edits that give way, 0 for none.
"""

from collections.abc import Sequence
from hashlib import sha256

import torch
from torch import Tensor

from liveedit.data.images import open_image
from liveedit.editors.bank import Bank
from liveedit.types import Query

__all__ = ["COLUMNS", "asked", "entries", "question", "settled", "standing", "unknown"]

COLUMNS = ("asked", "overrules")

OVERRULED = 4
"""How many earlier edits one can overrule, the newest of those in conflict."""


def question(prompt: str) -> str:
    """A question without what does not make it another: case, and white space of any length."""
    return " ".join(prompt.split()).casefold()


def asked(query: Query) -> int:
    """A number above 0 for the question and its images, the same for the same question about the same pixels."""
    sha = sha256(question(query.prompt).encode())
    for image in query.images:
        opened = open_image(image)
        sha.update(f"{opened.size}".encode() + opened.tobytes())
    sha.update(str(query.about if len(query.images) > 1 else None).encode())
    return 1 + int.from_bytes(sha.digest()[:7], "big")


def entries(queries: Sequence[Query], overruled: Sequence[Sequence[int]] = ()) -> dict[str, Tensor]:
    """The ledger's rows for edits, each of which overrules those of the given numbers, the oldest first."""
    numbers = torch.tensor([asked(query) for query in queries], dtype=torch.long)
    overrules = torch.zeros(len(queries), OVERRULED, dtype=torch.long)
    for row, older in enumerate(overruled):
        newest = torch.tensor(list(older)[-OVERRULED:], dtype=torch.long)
        overrules[row, : len(newest)] = newest
    return {"asked": numbers, "overrules": overrules}


def unknown(count: int) -> Bank:
    """The ledger of edits of which nothing is known: all of them stand."""
    own = -1 - torch.arange(count)
    return Bank({"asked": own, "overrules": torch.zeros(count, OVERRULED, dtype=torch.long)})


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
