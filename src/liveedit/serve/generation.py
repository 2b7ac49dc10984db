"""Answers to one batch of requests, each row with its own limits; rows send their text as it grows.

A row ends with the model's end of text, a stop text, its limit, or when nobody waits for it; it
says so at once. The batch ends with its last row.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor

from liveedit.errors import BadInput
from liveedit.models.batch import Batch, FiredEdit
from liveedit.models.greedy import greedy
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM
from liveedit.serve.growing import GrowingText
from liveedit.serve.problems import too_long
from liveedit.serve.sampling import Sampling
from liveedit.types import Query

__all__ = ["Asked", "Asker", "Ended", "Finish", "encoded", "generate"]

NO_ROOM = "the model has room for "
"""Begins a model's error about a question that is longer than its context."""
Finish = Literal["stop", "length"]
"""Why an answer ended."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and how it is to be answered.

    Arguments:
        query: The question.
        tokens: The most tokens of the answer.
        sampling: How tokens are chosen.
        stops: Texts at which the answer ends.
        edited: Whether the edits act.
    """

    query: Query
    tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    edited: bool = True


@dataclass(frozen=True, slots=True)
class Ended:
    """An answer's end.

    Arguments:
        finish: Why it ended.
        prompt_tokens: Tokens of the question, image and template included.
        tokens: Tokens of the answer, the end of text included.
        fired: The edits of the patch that fired, by number, with weights.
    """

    finish: Finish
    prompt_tokens: int
    tokens: int
    fired: tuple[FiredEdit, ...]


class Asker(Protocol):
    """Who asks a question, and waits for the answer."""

    @property
    def asked(self) -> Asked:
        """The question."""

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits any more."""

    def put(self, event: str) -> None:
        """Take the next part of the answer."""


class Row:
    """One row of a batch: its answer so far."""

    def __init__(self, asker: Asker, vlm: VLM, limit: int) -> None:
        decode = partial(
            vlm.tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        self.text = GrowingText(decode, (*asker.asked.stops, *vlm.ends))
        self.sampling = asker.asked.sampling
        self.ends = frozenset(vlm.stops)
        self.limit = limit
        self.asker = asker
        self.finish: Finish | None = None

    def add(self, token: int) -> None:
        """Take the next token."""
        new = self.text.add(token)
        if token in self.ends or self.text.stopped:
            self.finish = "stop"
        elif len(self.text.tokens) >= self.limit or self.asker.cancelled:
            self.finish = "length"
        if self.finish:
            new += self.text.end()
        if new:
            self.asker.put(new)


class Rows:
    """The rows of a batch, as Hugging Face's ``generate`` asks after each step.

    Arguments:
        rows: The rows.
        on_end: Called with the number of each row that has ended.
        on_step: Called after each step that another follows.
    """

    def __init__(
        self, rows: Sequence[Row], on_end: Callable[[int], None], on_step: Callable[[], None]
    ) -> None:
        self.rows = rows
        self.on_end = on_end
        self.on_step = on_step

    def choose(self, _ids: Tensor, scores: Tensor) -> Tensor:
        """A logits processor: of rows that draw, only the drawn token stays possible."""
        for row, its in zip(self.rows, scores, strict=True):
            if row.sampling.temperature and not row.finish:
                token = row.sampling.draw(its)
                its[:] = -torch.inf
                its[token] = 0
        return scores

    def ended(self, ids: Tensor, _scores: object, **_options: object) -> Tensor:
        """A stopping criterion: which rows have ended (B,), given all tokens (B, T) so far."""
        for number, (row, token) in enumerate(zip(self.rows, ids[:, -1].tolist(), strict=True)):
            if row.finish:
                continue
            row.add(token)
            if row.finish:
                self.on_end(number)
        ended = [row.finish is not None for row in self.rows]
        if not all(ended):
            self.on_step()
        return torch.tensor(ended, device=ids.device)


@contextmanager
def encoded(vlm: VLM, patch: Patch | None, asked: Sequence[Asked], most: int) -> Iterator[Batch]:
    """A context in which the model answers with the patch, and its batch of the questions.

    Raises what :meth:`VLM.encode` raises, and :class:`Problem` for a question of more than ``most``
    tokens, and where no token of an answer has room.
    """
    with vlm.unpatched(), torch.no_grad():
        if patch is None:
            yield _encoded(vlm, asked, most)
        else:
            with vlm.patched(patch):
                yield _encoded(vlm, asked, most)


def _encoded(vlm: VLM, asked: Sequence[Asked], most: int) -> Batch:
    try:
        batch = vlm.encode([each.query for each in asked], padding_side="left")
        vlm.check_room(batch, 1)
    except BadInput as error:
        if str(error).startswith(NO_ROOM):
            raise too_long(str(error)) from None
        raise
    longest = int(batch.inputs["attention_mask"].sum(1).max())
    if longest > most:
        raise too_long(f"a question may have {most:,} tokens, not {longest:,}: shorten it")
    return batch


def generate(
    vlm: VLM,
    patch: Patch | None,
    batch: Batch,
    askers: Sequence[Asker],
    on_end: Callable[[int, Ended], None],
    on_step: Callable[[], None],
) -> None:
    """Answer a batch in the context of :func:`encoded`; each row's text goes to its asker.

    ``on_end`` is called with each row's number and end as soon as it has ended, ``on_step`` after
    each token that another follows.
    """
    lengths = batch.inputs["attention_mask"].sum(1).tolist()
    with vlm.prefixed(batch) as (longer, _), vlm.announce(longer):

        def end(number: int) -> None:
            row = rows[number]
            fired = () if patch is None else longer.fired_by(patch)[number]
            assert row.finish is not None
            on_end(number, Ended(row.finish, lengths[number], len(row.text.tokens), tuple(fired)))

        rows = [
            Row(asker, vlm, limit(vlm, asker.asked, taken))
            for asker, taken in zip(askers, vlm.positions(longer).tolist(), strict=True)
        ]
        watched = Rows(rows, end, on_step)
        most = max(row.limit for row in rows)
        vlm.model.generate(
            **longer.inputs,
            **greedy(most, vlm.stops, vlm.pad_token_id),
            logits_processor=[watched.choose],
            stopping_criteria=[watched.ended],
        )


def limit(vlm: VLM, asked: Asked, taken: int) -> int:
    """The most tokens of an answer after ``taken`` positions: as asked, as far as there is room."""
    return asked.tokens if vlm.room is None else max(1, min(asked.tokens, vlm.room - taken))
