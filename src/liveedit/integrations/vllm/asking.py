"""Asking: what stands before vLLM's routes of questions.

A question to the model with ":base" in its name goes to the unedited one. The last question of a
chat of several turns is handed on by itself, so that edits are looked for with it alone. An answer
gets the fields of `liveedit serve`'s: the state of the edits, and those that fired.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from liveedit.integrations.vllm.requests import IMAGES, OFF, QUESTION

__all__ = ["BASE", "Asking"]

BASE = ":base"
"""The end of the unedited model's name."""
CHATS = "/v1/chat/completions"
ASKING = (CHATS, "/v1/completions")
Report = Callable[[str], Awaitable[dict[str, Any] | None]]
"""Finds what the answer with an id says of its edits."""


class Asking:
    """Hands questions on to vLLM, and its answers back."""

    def __init__(self, app: ASGIApp, report: Report) -> None:
        self.app = app
        self.report = report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path = scope.get("path", "")
        if scope["type"] == "http" and path in ASKING:
            receive = Marking(receive, chat=path == CHATS)
            send = Reporting(send, self.report)
        await self.app(scope, receive, send)


class Marking:
    """Receives the body of a question, and adds the arguments that the worker reads."""

    def __init__(self, receive: Receive, *, chat: bool) -> None:
        self.receive = receive
        self.chat = chat
        self.read = False

    async def __call__(self) -> Message:
        """The next message: first the whole body, then whatever follows."""
        if self.read:
            return await self.receive()
        self.read = True
        body = b""
        while True:
            message = await self.receive()
            if message["type"] != "http.request":
                return message
            body += message.get("body", b"")
            if not message.get("more_body"):
                return {"type": "http.request", "body": self.marked(body), "more_body": False}

    def marked(self, body: bytes) -> bytes:
        """The body with extra arguments; the same where there are none, or vLLM will refuse it."""
        try:
            asked = json.loads(body)
        except ValueError:
            return body
        if not isinstance(asked, dict):
            return body
        named = asked.get("model")
        extra: dict[str, Any] = {}
        if isinstance(named, str) and named.endswith(BASE):
            extra[OFF] = 1
        elif self.chat:
            extra = last_question(asked.get("messages"))
        if not extra:
            return body
        asked["vllm_xargs"] = {**(asked.get("vllm_xargs") or {}), **extra}
        return json.dumps(asked).encode()


def last_question(messages: Any) -> dict[str, Any]:
    """The extra arguments with the last question of a chat, if it has other turns before it."""
    if not isinstance(messages, list) or len(messages) < 2:
        return {}
    last = messages[-1]
    if not isinstance(last, dict) or last.get("role") != "user":
        return {}
    content = last.get("content") or ""
    parts = content if isinstance(content, list) else [content]
    said = [part if isinstance(part, str) else part.get("text") for part in parts]
    texts = [text for text in said if isinstance(text, str)]
    return {QUESTION: "\n".join(texts), IMAGES: len(parts) - len(texts)}


class Reporting:
    """Sends an answer of vLLM's with what it says of its edits, whole or in parts."""

    def __init__(self, send: Send, report: Report) -> None:
        self.send = send
        self.report = report
        self.start: Message | None = None
        """The start of a whole answer, whose length is known at the end."""
        self.streamed = False
        self.rest = b""
        """The part of the body that was not sent yet."""

    async def __call__(self, message: Message) -> None:
        """Send a message."""
        if message["type"] == "http.response.start":
            kind = MutableHeaders(scope=message).get("content-type", "")
            self.streamed = kind.startswith("text/event-stream")
            if message["status"] == 200 and kind.startswith("application/json"):
                self.start = message
                return
        elif message["type"] == "http.response.body" and (self.streamed or self.start):
            message = await self._body({"body": b"", **message})
            if message is None:
                return
        await self.send(message)

    async def _body(self, message: Message) -> Any:
        """A part of the body as it is to be sent; ``None`` where there is none yet."""
        self.rest += message["body"]
        ended = not message.get("more_body")
        if self.start is None:
            *events, self.rest = self.rest.split(b"\n\n")
            sent = [await self._event(event) + b"\n\n" for event in events]
            return {**message, "body": b"".join(sent) + (self.rest if ended else b"")}
        if not ended:
            return None
        body = await self._with_report(self.rest)
        MutableHeaders(scope=self.start)["content-length"] = str(len(body))
        await self.send(self.start)
        return {**message, "body": body}

    async def _event(self, event: bytes) -> bytes:
        """A server-sent event; the last ones, with the end of the answer and with its usage, get
        the report.
        """
        start = b"data: "
        ends = b'"finish_reason":"' in event or b'"choices":[]' in event
        if not ends or not event.startswith(start):
            return event
        return start + await self._with_report(event.removeprefix(start))

    async def _with_report(self, content: bytes) -> bytes:
        """An answer, or a part of it, with the report; the same for anything else."""
        try:
            answer = json.loads(content)
        except ValueError:
            return content
        if not isinstance(answer, dict) or "choices" not in answer:
            return content
        report = await self.report(str(answer.get("id")))
        return json.dumps({**answer, **(report or {})}, ensure_ascii=False).encode()
