"""/v1/edits/check: looks for edits that do not take, contradict each other, or fire too often.

It may take minutes, so its answer is a stream: how far it is, what it found, the end. It runs
beside answers and edits, and steps aside while questions are answered.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from threading import Event
from typing import Literal

import anyio.to_thread
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from liveedit.serve.chat import STREAMED
from liveedit.serve.edits import EditBody, one
from liveedit.serve.problems import Problem, answered
from liveedit.serve.service import Given, Service
from liveedit.steering.checking import Finding

__all__ = ["routes"]

routes = APIRouter(prefix="/v1/edits", tags=["Edits"])
ASIDE = 5.0
"""Seconds that a check waits at most, between two batches, until no question is answered."""


class ProgressBody(BaseModel):
    """How far a check is: the stage, the questions asked in it and their number."""

    stage: Literal["edits", "background"]
    done: int
    of: int


class FindingBody(BaseModel):
    """Something that a person should look at.

    ``share`` is that of the background's questions on which the edit fires, ``stated`` the rate of
    false firing that its method states.
    """

    kind: Literal["does_not_take", "contradiction", "fires_on_background"]
    text: str
    edits: list[EditBody]
    share: float | None
    stated: float | None


class HungUp(Exception):
    """Nobody waits for a check any more."""


@routes.post("/check", responses=STREAMED, response_class=StreamingResponse)
async def check(service: Given) -> StreamingResponse:
    """Look for edits that do not take, contradict each other, or fire where none should.

    The answer is a stream of events: `{"progress": {"stage", "done", "of"}}`, then
    `{"finding": {"kind", "text", "edits", "share", "stated"}}`, `{"error"}` if it fails, and at the
    end `[DONE]`.
    """
    if service.checking.locked():
        raise Problem(
            503,
            "a check runs already: try again later",
            code="overloaded",
            headers={"Retry-After": "5"},
        )
    return StreamingResponse(events(service), media_type="text/event-stream")


async def events(service: Service) -> AsyncIterator[str]:
    """The events of a check, which runs in a thread and ends soon after its client has left."""
    progress: asyncio.Queue[ProgressBody | None] = asyncio.Queue()
    left = Event()
    async with service.checking:
        check = asyncio.ensure_future(run(service, progress, left))
        try:
            while told := await progress.get():
                yield event("progress", told)
            for finding in await check:
                yield event("finding", described(service, finding))
        except Exception as error:
            yield answered(error).event
            return
        finally:
            left.set()
    yield "data: [DONE]\n\n"


async def run(
    service: Service, progress: "asyncio.Queue[ProgressBody | None]", left: Event
) -> tuple[Finding, ...]:
    """The findings of a check; how far it is goes into a queue, ``None`` at the end."""
    loop = asyncio.get_running_loop()

    def report(stage: str, done: int, of: int) -> None:
        if left.is_set():
            raise HungUp
        told = ProgressBody.model_validate({"stage": stage, "done": done, "of": of})
        loop.call_soon_threadsafe(progress.put_nowait, told)
        service.engine.await_idle(ASIDE)

    try:
        return await anyio.to_thread.run_sync(partial(service.model.check, progress=report))
    except HungUp:
        return ()
    finally:
        progress.put_nowait(None)


def described(service: Service, finding: Finding) -> FindingBody:
    """A finding as JSON."""
    return FindingBody(
        kind=finding.kind,
        text=finding.text,
        edits=[one(service, service.store.find(edit.id)) for edit in finding.edits],
        share=finding.share,
        stated=finding.stated,
    )


def event(name: str, content: BaseModel) -> str:
    """A server-sent event."""
    return f"data: {json.dumps({name: content.model_dump()})}\n\n"
