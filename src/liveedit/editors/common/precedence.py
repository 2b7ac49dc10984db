"""Precedence: which edits of a bank are in force, and which are superseded or overruled.

The most recent edit wins. An edit *supersedes* the earlier ones of the same question about the same
images: they are kept, but never fire; once it is taken back, the latest of them is in force again.
Two edits are in conflict if they give one question different answers about different images, and
the earlier one fires on the later one's image (:mod:`liveedit.store.conflicts`). The later one
*overrules* the earlier one: where both would fire, only the later one does.

A ledger records this for every edit of a bank: ``asked`` (E,), a number for the question and its
images, and ``overrules`` (E, W), the ``asked`` of the earlier edits that it overrules, 0 for none.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from liveedit.data.images import images_hash
from liveedit.editors.common.bank import Bank
from liveedit.question import number
from liveedit.types import Query

__all__ = [
    "COLUMNS",
    "image_index",
    "latest_of_each_question",
    "ledger_overruling",
    "ledger_rows",
    "ledger_with",
    "question_number",
    "unknown_ledger",
    "without_overruled",
]

COLUMNS = ("asked", "overrules")

WIDTH = 4
"""W of a new ledger; it grows with the most edits that one overrules."""


def question_number(query: Query) -> int:
    """The number of a query's question and images (:func:`liveedit.question.number`)."""
    return number(query.prompt, images_hash(query.images), image_index(query))


def image_index(query: Query) -> int | None:
    """The image that a query is about, in one form: -1 for the last or only one, ``None`` for all.

    Other images are counted from 0.
    """
    if len(query.images) < 2:
        return -1
    if query.about is None:
        return None
    index = query.about % len(query.images)
    return -1 if index == len(query.images) - 1 else index


def ledger_rows(numbers: Sequence[int], width: int = WIDTH) -> dict[str, Tensor]:
    """A ledger's rows for edits with these numbers, which overrule none."""
    return {
        "asked": torch.tensor(numbers, dtype=torch.long),
        "overrules": torch.zeros(len(numbers), width, dtype=torch.long),
    }


def ledger_with(ledger: Bank, queries: Sequence[Query]) -> Bank:
    """The ledger with edits of these queries after the others; they overrule none."""
    numbers = [question_number(query) for query in queries]
    return ledger.append(ledger_rows(numbers, ledger["overrules"].shape[1]))


def ledger_overruling(ledger: Bank, conflicts: Mapping[int, Sequence[int]]) -> Bank:
    """The ledger in which some edits, by index, overrule earlier ones."""
    overruled = dict[int, list[int]]()
    for edit, older in conflicts.items():
        overruled[edit] = sorted(set(ledger["asked"][list(older)].tolist()))
    overrules = ledger["overrules"]
    missing = max(len(numbers) for numbers in overruled.values()) - overrules.shape[1]
    overrules = F.pad(overrules, (0, max(0, missing)))
    for edit, numbers in overruled.items():
        overrules[edit, : len(numbers)] = torch.tensor(numbers)
    return Bank({"asked": ledger["asked"], "overrules": overrules})


def unknown_ledger(count: int) -> Bank:
    """The ledger of ``count`` edits about which nothing is known: all of them are in force."""
    own = -1 - torch.arange(count)
    return Bank({"asked": own, "overrules": torch.zeros(count, WIDTH, dtype=torch.long)})


def latest_of_each_question(ledger: Bank) -> Tensor:
    """The edits, boolean (E,), that are not superseded: the last of each question."""
    edits = torch.arange(len(ledger))
    if not len(ledger):
        return edits.bool()
    _, group = torch.unique(ledger["asked"], return_inverse=True)
    last = torch.full_like(edits, -1).scatter_reduce(0, group, edits, "amax")
    return last[group] == edits


def without_overruled(ledger: Bank, fired: Tensor, edits: Tensor) -> Tensor:
    """Of the ``edits`` (n,) that fire for each query, boolean (B, n), those that none of them
    overrules.
    """
    places = edits.to(ledger.device)
    overrules = ledger["overrules"][places].to(fired.device)
    overruling = overrules.any(1).nonzero()[:, 0]
    if not len(overruling) or not bool(fired[:, overruling].any()):
        return fired
    numbers = ledger["asked"][places].to(fired.device)
    kept = fired.clone()
    for row, index in fired[:, overruling].nonzero().tolist():
        edit = overruling[index]
        overruled = torch.isin(numbers, overrules[edit])
        kept[row] &= ~(overruled & (edits < edits[edit]))
    return kept
