"""Explains an answer: the edits that fired, those that nearly did, and the answer without edits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from liveedit.models.batch import Scores
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
    edits = [edit for edit in pool.history if edit.held]
    fired = sorted(reply.fired, key=lambda pair: -pair[1])
    near = [] if reply.scores is None else _nearest(reply.scores, edits, dict(fired))
    return Answered(
        reply.text,
        tuple(_firing(edits[index], weight, reply.scores, index) for index, weight in fired),
        tuple(_firing(edits[index], 0.0, reply.scores, index) for index in near),
    )


def _nearest(scores: Scores, edits: Sequence[Edit], fired: dict[int, float]) -> list[int]:
    """The edits in force that came nearest to firing, by their indices."""
    above = scores.above.clone()
    for place, index in enumerate(scores.edits.tolist()):
        if index in fired or edits[index].superseded_by:
            above[place] = -torch.inf
    nearest = above.topk(min(NEAR, len(above)))
    places = nearest.indices[nearest.values > -torch.inf]
    return scores.edits[places].tolist()


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
