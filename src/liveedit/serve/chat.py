"""/v1/chat/completions, /v1/completions and /v1/models, as OpenAI's clients call them.

Fields of OpenAI's that would change the answer and are not supported are refused; all others are
ignored, as vLLM does. Without a temperature the likeliest tokens are taken, so that the answer of
an edit is certain.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from time import time
from typing import Annotated, Any, Literal, Self

import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from liveedit.errors import BadInput
from liveedit.serve.engine import Job, Reply
from liveedit.serve.generation import Asked
from liveedit.serve.problems import Problem, answered
from liveedit.serve.sampling import Sampling
from liveedit.serve.service import Given, Id, Service
from liveedit.types import Query, Role, Turn, visible

__all__ = ["routes"]

routes = APIRouter(prefix="/v1", tags=["Questions"])
HUNG_UP = 499
"""The status of a request whose client left; nobody receives it."""
UNSUPPORTED = (
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs",
    "presence_penalty", "tools", "top_logprobs", "best_of", "echo", "suffix",
    "web_search_options", "modalities", "response_format", "structured_outputs", "guided_json",
    "guided_regex", "guided_choice", "guided_grammar",
)  # fmt: skip
"""Fields of OpenAI's requests, and of vLLM's for the form of an answer, that are refused."""
WITHOUT_EFFECT = {"modalities": ["text"], "response_format": {"type": "text"}, "best_of": 1}
"""Values of these fields that ask for nothing else than what is done."""

EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
"""A server-sent event of a streamed answer, for its description; ``data`` is JSON or [DONE]."""
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer, whole or, with `stream`, in parts",
        "content": {"text/event-stream": {"schema": EVENT}},
    }
}
"""The forms of an answer, for the description of the routes that can stream one."""


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    include_usage: bool = False


class Choices(BaseModel):
    """How an answer is to be chosen, for both kinds of questions."""

    model_config = ConfigDict(extra="allow")

    model: str | None = Field(None, description="NAME, or NAME:base for the unedited model.")
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    n: Literal[1] | None = 1
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _supported(self) -> Self:
        extra = self.model_extra or {}
        for name in UNSUPPORTED:
            if extra.get(name) and extra[name] != WITHOUT_EFFECT.get(name):
                raise Problem(400, f"{name} is not supported: leave it out", param=name)
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(filter(None, given))

    def asked(self, query: Query, service: Service) -> Asked:
        """The question as the engine takes it. Raises :class:`Problem` for a text too long."""
        service.check_text(query)
        return Asked(
            query,
            service.check_tokens(self.max_completion_tokens or self.max_tokens),
            Sampling(self.temperature or 0, 1 if self.top_p is None else self.top_p, self.seed),
            self.stops,
            service.edited(self.model),
        )


class ImageUrl(BaseModel):
    """Where an image is: a data URL, or an address on a host that the server may fetch from."""

    url: str
    detail: str | None = None


class TextPart(BaseModel):
    """A text."""

    type: Literal["text"]
    text: str


class ImagePart(BaseModel):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


class Message(BaseModel):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]] | None = None

    @property
    def text(self) -> str:
        """Its text, without the images."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if isinstance(part, TextPart))
        return self.content or ""

    @property
    def images(self) -> list[str]:
        """The URLs of its images."""
        parts = self.content if isinstance(self.content, list) else []
        return [part.image_url.url for part in parts if isinstance(part, ImagePart)]

    @property
    def turn(self) -> Turn:
        """The turn, as a query has it."""
        role: Role = "system" if self.role == "developer" else self.role
        return Turn(role, self.text, len(self.images))


class ChatRequest(Choices):
    """A chat, whose last message is the question."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]

    def query(self, service: Service) -> Query:
        """The chat as a query, its images opened. Raises :class:`BadInput` for another end."""
        *earlier, last = self.messages
        if last.role != "user":
            raise BadInput("the last message is the question: give it the role user")
        urls: list[str] = []
        for message in self.messages:
            urls += message.images
        service.check_images(len(urls))
        images = [service.pictures.open(url) for url in urls]
        return Query(last.text, image=images, earlier=tuple(each.turn for each in earlier))


class CompletionRequest(Choices):
    """A question without images, asked in the model's prompt format, or several."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=64)]
    max_tokens: Annotated[int, Field(ge=1)] | None = 16

    @property
    def prompts(self) -> list[str]:
        """The questions."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class Form:
    """The form of an answer: a chat's, or a completion's.

    Arguments:
        kind: "chat.completion" or "text_completion".
        id: The request's id.
        model: The model's name.
    """

    def __init__(self, kind: str, id: str, model: str) -> None:
        self.chat = kind == "chat.completion"
        self.kind = kind
        self.head = {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{id}",
            "created": int(time()),
            "model": model,
        }

    def whole(self, answers: Sequence[tuple[str, Reply]]) -> dict[str, Any]:
        """The answers, complete."""
        choices = []
        for index, (text, reply) in enumerate(answers):
            said: dict[str, Any] = {"text": text}
            if self.chat:
                said = {"message": {"role": "assistant", "content": text, "refusal": None}}
            finish = reply.ended.finish
            choices.append({"index": index, **said, "logprobs": None, "finish_reason": finish})
        replies = [reply for _, reply in answers]
        return {**self.head, "object": self.kind, "choices": choices, **ending(replies)}

    def part(self, text: str, finish: str | None, **more: Any) -> str:
        """A part of a streamed answer."""
        said: dict[str, Any] = {"text": text}
        if self.chat:
            said = {"delta": {} if finish else {"role": "assistant", "content": text}}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        return self.event([choice], **more)

    def event(self, choices: Sequence[dict[str, Any]], **more: Any) -> str:
        """A server-sent event."""
        kind = "chat.completion.chunk" if self.chat else self.kind
        return event({**self.head, "object": kind, "choices": list(choices), **more})


def event(content: dict[str, Any]) -> str:
    """A server-sent event that holds JSON."""
    return f"data: {Plain.model_validate(content).model_dump_json()}\n\n"


class Plain(BaseModel):
    """Any JSON object."""

    model_config = ConfigDict(extra="allow")


def ending(replies: Sequence[Reply]) -> dict[str, Any]:
    """The fields at the end of an answer: tokens, the store's version, and the edits that fired."""
    asked = sum(reply.ended.prompt_tokens for reply in replies)
    said = sum(reply.ended.tokens for reply in replies)
    fired: list[dict[str, Any]] = []
    for reply in replies:
        fired += ({"id": row.edit.id, "weight": weight} for row, weight in reply.fired)
    return {
        "usage": {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
        "system_fingerprint": replies[-1].fingerprint,
        "liveedit": {"fired": fired},
    }


@routes.post("/chat/completions", response_model=None, responses=STREAMED)
async def chat(body: ChatRequest, request: Request, service: Given, id: Id) -> Any:
    """Answer a chat; its images are data URLs."""
    query = await anyio.to_thread.run_sync(body.query, service)
    form = Form("chat.completion", id, body.model or service.name)
    return await answer(body, [query], request, service, form, id)


@routes.post("/completions", response_model=None, responses=STREAMED)
async def complete(body: CompletionRequest, request: Request, service: Given, id: Id) -> Any:
    """Answer questions without images."""
    if body.stream and len(body.prompts) > 1:
        raise BadInput("an answer to several prompts is not streamed: give one")
    form = Form("text_completion", id, body.model or service.name)
    return await answer(body, [Query(text) for text in body.prompts], request, service, form, id)


async def answer(
    body: Choices, queries: Sequence[Query], request: Request, service: Service, form: Form, id: str
) -> Any:
    """The answers to queries: whole, or the only one in parts as they come."""
    if not all(visible(query.prompt) or query.images for query in queries):
        raise BadInput("a question is empty: give it a text or an image")
    jobs = service.engine.ask([body.asked(query, service) for query in queries], id)
    if not body.stream:
        return await whole(jobs, request, form)
    parts = jobs[0].parts()
    first = await anext(parts, "")  # an error before the first part has a status of its own
    usage = bool(body.stream_options and body.stream_options.include_usage)
    return StreamingResponse(
        streamed(jobs[0], first, parts, form, usage=usage), media_type="text/event-stream"
    )


async def whole(jobs: Sequence[Job], request: Request, form: Form) -> Any:
    """The whole answers, unless the client hangs up."""
    answers = asyncio.ensure_future(all_collected(jobs))
    left = asyncio.ensure_future(hung_up(request))
    waited: set[asyncio.Future[Any]] = {answers, left}
    try:
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        return form.whole(answers.result()) if answers.done() else Response(status_code=HUNG_UP)
    finally:  # frees the rows of whoever left, also when the server stops
        answers.cancel()
        left.cancel()


async def all_collected(jobs: Sequence[Job]) -> list[tuple[str, Reply]]:
    """The answers of jobs."""
    return await asyncio.gather(*map(collected, jobs))


async def collected(job: Job) -> tuple[str, Reply]:
    """A job's answer."""
    text = "".join([part async for part in job.parts()])
    assert job.reply is not None
    return text, job.reply


async def hung_up(request: Request) -> None:
    """Return when the client hangs up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def streamed(
    job: Job, first: str, parts: AsyncIterator[str], form: Form, *, usage: bool
) -> AsyncIterator[str]:
    """The events of a streamed answer."""
    try:
        yield form.part(first, None)
        async for text in parts:
            yield form.part(text, None)
    except Exception as error:
        yield answered(error).event
        return
    finally:
        job.cancel()
    assert job.reply is not None
    end = ending([job.reply])
    counted = end.pop("usage")
    yield form.part("", job.reply.ended.finish, **end)
    if usage:
        yield form.event([], usage=counted, **end)
    yield "data: [DONE]\n\n"


@routes.get("/models")
async def models(service: Given) -> dict[str, Any]:
    """The edited model and the unedited one."""
    return {"object": "list", "data": [described(name) for name in (service.name, service.base)]}


@routes.get("/models/{name:path}")
async def model(name: str, service: Given) -> dict[str, Any]:
    """One of them."""
    service.edited(name)
    return described(name)


def described(name: str) -> dict[str, Any]:
    """A model, as OpenAI's clients read it."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "liveedit"}
