"""Requests: what is known of each while it runs, and the tokens that one step computes of it."""

import re
from dataclasses import dataclass, field
from typing import Any

from liveedit.models.batch import Batch
from liveedit.models.patch import SiteFn
from liveedit.store.durable import State

__all__ = ["IMAGES", "OFF", "QUESTION", "Question", "Request", "Tokens", "tokens_of_step"]

OFF = "liveedit_off"
"""The extra argument of a request that asks the unedited model."""
QUESTION = "liveedit_question"
"""The extra argument with the text of the last question, where a chat comes before it."""
IMAGES = "liveedit_images"
"""The extra argument with the number of images that the last question shows itself."""
ID = re.compile(r"(?:\d+_)?(.*)-[0-9a-f]{8}")
"""The id that a client knows, between what vLLM adds: the number of the choice, and an end."""


@dataclass(frozen=True, slots=True)
class Question:
    """The last question of a chat.

    Arguments:
        text: Its text.
        images: How many images it shows itself, the last ones of the chat.
    """

    text: str
    images: int


@dataclass(slots=True, eq=False)
class Request:
    """A request.

    Arguments:
        id: Its id.
        prompt: The token ids of its prompt, those of images included.
        edited: Whether edits act on it.
        images: Its images, as vLLM describes them (``MultiModalFeatureSpec``).
        question: Its last question, where a chat comes before it.
        functions: The functions of the patch that act on it, by site.
        state: The store's state whose patch that is.
        reading: The batch with which its prompt is read; ``None`` before and afterwards.
        row: Its row there.
    """

    id: str
    prompt: list[int]
    edited: bool
    images: list[Any] = field(default_factory=list)
    question: Question | None = None
    functions: dict[str, SiteFn] = field(default_factory=dict)
    state: State | None = None
    reading: Batch | None = None
    row: int = 0

    @property
    def name(self) -> str:
        """The id that the client knows."""
        found = ID.fullmatch(self.id)
        return found[1] if found else self.id

    @classmethod
    def of(cls, new: Any) -> "Request":
        """The request that the scheduler announces as ``new``."""
        sampling = new.sampling_params
        extra = (sampling.extra_args if sampling else None) or {}
        text = extra.get(QUESTION)
        return cls(
            new.req_id,
            list(new.prompt_token_ids or ()),
            edited=sampling is not None and not extra.get(OFF),
            images=[each for each in new.mm_features if each.modality == "image"],
            question=None if text is None else Question(text, int(extra.get(IMAGES, 0))),
        )

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
