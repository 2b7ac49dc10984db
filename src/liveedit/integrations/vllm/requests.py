"""Requests: what is known of each while it runs, and the tokens that one step computes of it."""

import re
from dataclasses import dataclass, field
from typing import Any

from liveedit.models.batch import Batch
from liveedit.models.patch import SiteFn
from liveedit.store.durable import State

__all__ = ["OFF", "Request", "Tokens", "tokens_of_step"]

OFF = "liveedit_off"
"""The extra argument of a request that asks the unedited model."""


SUFFIX = re.compile(r"-[0-9a-f]{8}$")
"""Added by vLLM to the id that a client knows."""


@dataclass(slots=True, eq=False)
class Request:
    """A request.

    Arguments:
        id: Its id.
        prompt: The token ids of its prompt, those of images included.
        edited: Whether edits act on it.
        functions: The functions of the patch that act on it, by site.
        state: The store's state whose patch that is.
        reading: The batch with which its prompt is read; ``None`` before and afterwards.
        row: Its row there.
    """

    id: str
    prompt: list[int]
    edited: bool
    functions: dict[str, SiteFn] = field(default_factory=dict)
    state: State | None = None
    reading: Batch | None = None
    row: int = 0

    @property
    def name(self) -> str:
        """The id that the client knows."""
        return SUFFIX.sub("", self.id)

    @classmethod
    def of(cls, new: Any) -> "Request":
        """The request that the scheduler announces as ``new``."""
        sampling = new.sampling_params
        off = sampling is None or (sampling.extra_args or {}).get(OFF)
        return cls(new.req_id, list(new.prompt_token_ids or ()), not off)

    def read(self, state: State, batch: Batch, row: int, functions: dict[str, SiteFn]) -> None:
        """Its prompt is about to be read as a row of a batch, on which functions act."""
        self.state = state
        self.reading = batch
        self.row = row
        self.functions = functions


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one request in a step.

    Arguments:
        request: The request.
        at: The first of them among the step's N tokens.
        count: Their number.
        before: How many of its tokens were computed before.
    """

    request: Request
    at: int
    count: int
    before: int


def tokens_of_step(runner: Any, known: dict[str, Request], counts: dict[str, int]) -> list[Tokens]:
    """The tokens of each request that the model runner computes, in its order.

    ``counts`` are the numbers of tokens that the scheduler has given to requests.
    """
    found = []
    at = 0
    for id in runner.input_batch.req_ids:
        before = runner.requests[id].num_computed_tokens
        found.append(Tokens(known[id], at, counts[id], before))
        at += counts[id]
    return found
