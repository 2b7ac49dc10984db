"""Service: what the routes of one server share."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, TypeVar

import anyio.to_thread
from fastapi import Depends, Request

from liveedit.editable import EditableVLM
from liveedit.errors import BadInput
from liveedit.serve.engine import Engine
from liveedit.serve.images import Pictures
from liveedit.serve.metrics import Metrics
from liveedit.serve.problems import Problem, too_long
from liveedit.serve.settings import Limits
from liveedit.store.store import Store
from liveedit.types import Query

__all__ = ["Given", "Id", "Service", "Turnstile"]

Result = TypeVar("Result")
CHARACTERS = 16
"""Characters of a text for each token that it may have: more than a language has on average."""
BASE = ":base"
"""Ends the name of the unedited model."""


class Turnstile:
    """Lets one heavy task run at a time, in a thread, and some wait."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.waiting = 0
        self._one = anyio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A context that one task is in. Raises :class:`Problem` where too many wait."""
        if self.waiting >= self.most:
            raise Problem(
                503,
                "too many edits wait: try again later",
                code="overloaded",
                headers={"Retry-After": "5"},
            )
        self.waiting += 1
        try:
            async with self._one:
                yield
        finally:
            self.waiting -= 1

    async def run(self, task: Callable[[], Result]) -> Result:
        """The result of a task, once it is its turn; it is never left half done."""
        async with self.turn():
            return await anyio.to_thread.run_sync(task)


@dataclass(frozen=True)
class Service:
    """The model with its edits, and all that answers by it.

    Arguments:
        name: The edited model's name; the unedited one's ends in ":base".
        model: The model.
        store: The store of its edits.
        limits: Limits.
        engine: Answers questions.
        pictures: Opens images.
        metrics: Counts.
        heavy: Runs edits, trials and explanations one by one.
        checking: Held by the check that runs.
    """

    name: str
    model: EditableVLM
    store: Store
    limits: Limits
    engine: Engine
    pictures: Pictures
    metrics: Metrics
    heavy: Turnstile
    checking: anyio.Lock

    @property
    def base(self) -> str:
        """The name of the unedited model."""
        return f"{self.name}{BASE}"

    def check_tokens(self, wanted: int | None) -> int:
        """How many tokens an answer may have: as wanted, as far as the server allows."""
        return min(wanted or self.limits.tokens, self.limits.tokens)

    def check_text(self, query: Query) -> None:
        """Raise :class:`Problem` for texts whose tokens it would take too long to count."""
        most = CHARACTERS * self.limits.prompt
        length = len(query.prompt) + sum(len(turn.text) for turn in query.earlier)
        if length > most:
            raise too_long(f"a question may have {most:,} characters, not {length:,}: shorten it")

    def edited(self, model: str | None) -> bool:
        """Whether a model's name is the edited one's. Raises :class:`Problem` for another name."""
        if model in (None, self.name):
            return True
        if model == self.base:
            return False
        raise Problem(
            404,
            f"there is no model {model!r:.80}: ask {self.name} or {self.base}",
            code="model_not_found",
            param="model",
        )

    def check_images(self, count: int) -> None:
        """Raise :class:`BadInput` for too many images."""
        if count > self.limits.images:
            raise BadInput(f"a request may have {self.limits.images} images, not {count}")


def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


def _id(request: Request) -> str:
    return str(request.state.request_id)


Given = Annotated[Service, Depends(_service)]
"""The service, as a route gets it."""
Id = Annotated[str, Depends(_id)]
"""The request's id, as a route gets it."""
