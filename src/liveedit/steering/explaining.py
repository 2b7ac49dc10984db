"""Explains an answer: the edits that fired, those that nearly did, and the answer without edits."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from liveedit.editors.common.bank_editor import BankPatch
from liveedit.models.batch import Scores
from liveedit.models.patch import Patch
from liveedit.store.edit import Edit
from liveedit.store.pool import Pool
from liveedit.types import Query

__all__ = ["Answered", "Explanation", "Firing", "answered", "explained"]

NEAR = 3
"""Edits that did not fire, but came nearest to it, which an explanation names."""


@dataclass(frozen=True, slots=True)
class Firing:
    """An edit that fired, or came near to it.

    It can fire only if each score exceeds its threshold; ``None`` stands for what its method does
    not have. A method that compares question and image as one has the score of the question alone.

    Arguments:
        edit: The edit.
        weight: Its weight in the mix; 0 if it did not fire.
        image: Score by the image.
        image_threshold: What that score has to exceed, given that of the question.
        question: Score by the question.
        question_threshold: What that score has to exceed.
    """

    edit: Edit
    weight: float
    image: float | None = None
    image_threshold: float | None = None
    question: float | None = None
    question_threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer of an edited model.

    Arguments:
        answer: The answer.
        fired: The edits that fired, the heaviest first.
        near: At most three edits in force that came nearest to firing, the nearest first.
    """

    answer: str
    fired: tuple[Firing, ...]
    near: tuple[Firing, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a model answers a query as it does.

    Arguments:
        answer: The answer of the edited model.
        unedited: The answer of the unedited model.
        fired: The edits that fired, the heaviest first.
        near: At most three edits in force that came nearest to firing, the nearest first.
    """

    answer: str
    unedited: str
    fired: tuple[Firing, ...]
    near: tuple[Firing, ...]


def explained(pool: Pool, query: Query, max_new_tokens: int) -> Explanation:
    """The explanation of the answer to a query."""
    found = answered(pool, query, max_new_tokens)
    unedited = found.answer
    if len(pool.patch):
        with pool.vlm.unpatched():
            [unedited] = pool.vlm.generate([query], max_new_tokens=max_new_tokens)
    return Explanation(found.answer, unedited, found.fired, found.near)


def answered(pool: Pool, query: Query, max_new_tokens: int) -> Answered:
    """The answer to a query, with the edits that fired and those that nearly did."""
    with pool.vlm.unpatched(), pool.vlm.patched(pool.patch):
        [reply] = pool.vlm.answers([query], max_new_tokens=max_new_tokens, scores=True)
    fired = sorted(reply.fired, key=lambda pair: -pair[1])
    near = _nearest(reply.scores, pool.patch, dict(fired))
    told = [*fired, *((index, 0.0) for index in near)]
    edits = pool.held([index for index, _ in told])
    firings = [
        _firing(edit, weight, reply.scores, index)
        for edit, (index, weight) in zip(edits, told, strict=True)
    ]
    return Answered(reply.text, tuple(firings[: len(fired)]), tuple(firings[len(fired) :]))


def _nearest(scores: Scores | None, patch: Patch, fired: dict[int, float]) -> list[int]:
    """The edits in force that came nearest to firing, by their indices."""
    if scores is None or not isinstance(patch, BankPatch):
        return []
    above = scores.above.cpu().clone()
    edits = scores.edits.cpu()
    passed_over = ~patch.not_superseded.cpu()[edits]
    above[passed_over | torch.isin(edits, torch.tensor(list(fired), dtype=torch.long))] = -torch.inf
    nearest = above.topk(min(NEAR, len(above)))
    return edits[nearest.indices[nearest.values > -torch.inf]].tolist()


def _firing(edit: Edit, weight: float, scores: Scores | None, index: int) -> Firing:
    """An edit with its scores, by its index."""
    if scores is None:
        return Firing(edit, weight)
    place = int((scores.edits == index).nonzero()[0, 0])
    return Firing(
        edit,
        weight,
        image=_number(scores.image, place),
        image_threshold=_number(scores.image_threshold, place),
        question=_number(scores.question, place),
        question_threshold=_number(scores.question_threshold, place),
    )


def _number(values: Tensor | None, place: int) -> float | None:
    """One of ``values``; ``None`` where there is none."""
    value = math.nan if values is None else float(values[place])
    return value if math.isfinite(value) else None
