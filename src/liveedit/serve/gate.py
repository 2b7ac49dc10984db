"""Gate: what every request passes. It checks rights and origin, and sets ids and headers."""

import asyncio
import re
from time import perf_counter
from urllib.parse import urlsplit
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from liveedit.serve.metrics import Metrics
from liveedit.serve.problems import Problem, answered
from liveedit.serve.settings import Right, Rights, is_loopback

__all__ = ["CSP", "Gate"]

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CUT = Problem(503, "the server stops: ask again later", code="stopping")
"""The answer to a request that runs longer than a server which stops waits for it."""
ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
"""The form of an id that a request brings."""
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Gate:
    """Wraps an application, whose routes under /v1 are also found with a slash at their end.

    With tokens each route under /v1, and /metrics, needs one. Without, everything is allowed, and
    ``local`` refuses what a web page of another origin may send to this machine. A body may have
    ``most`` bytes.
    """

    def __init__(
        self, app: ASGIApp, rights: Rights, metrics: Metrics, most: int, local: bool
    ) -> None:
        self.app = app
        self.rights = rights
        self.metrics = metrics
        self.most = most
        self.local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"].startswith("/v1/"):
            scope["path"] = scope["path"].rstrip("/")
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        id = given if ID.fullmatch(given) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = id
        status = 0
        kind = ""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            self.check_length(received)
            return message

        async def stamped(message: Message) -> None:
            nonlocal status, kind
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                kind = answer.get("content-type", "")
                stamp(answer, id, scope["path"])
            await send(message)

        begun = perf_counter()
        try:
            self.check(scope, headers)
            self.check_length(int(headers.get("content-length", "0")))
            await self.app(scope, counted, stamped)
        except Exception as error:
            if status:  # the answer has begun: its end is all that can be cut
                raise
            await answered(error).response()(scope, receive, stamped)
        except asyncio.CancelledError:  # by a server that stops; raised again, it would be logged
            if not status:
                await CUT.response()(scope, receive, stamped)
            elif kind.startswith("text/event-stream"):
                await send({"type": "http.response.body", "body": CUT.event.encode()})
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, str(status or 499)).inc()
            self.metrics.seconds.labels(route).observe(perf_counter() - begun)

    def check_length(self, length: int) -> None:
        """Raise the error for a body of too many bytes."""
        if length > self.most:
            raise HTTPException(413, f"a request may have {self.most:,} bytes")

    def check(self, scope: Scope, headers: Headers) -> None:
        """Raise :class:`Problem` for a request that may not be answered."""
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:  # no database takes one
            raise Problem(400, "the address holds a NUL character: leave it out")
        if self.rights.open:
            if self.local:
                check_local(headers, reads=scope["method"] in ("GET", "HEAD"))
            return
        needed = right_for(scope["path"])
        if needed is None:
            return
        kind, _, token = headers.get("authorization", "").partition(" ")
        right = self.rights.of_token(token.strip()) if kind.lower() == "bearer" else None
        if right is None:
            raise Problem(
                401,
                "this needs a token: send Authorization: Bearer TOKEN",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if needed == "edit" and right == "ask":
            raise Problem(403, "this token may ask, not edit: use another", code="forbidden")


def right_for(path: str) -> Right | None:
    """The right that a path needs."""
    if path == "/v1/edits" or path.startswith("/v1/edits/"):
        return "edit"
    return "ask" if path.startswith("/v1/") or path == "/metrics" else None


def check_local(headers: Headers, *, reads: bool) -> None:
    """Raise :class:`Problem` for a request that a page of another origin has sent.

    The host must be this machine by name, whatever another name resolves to (DNS rebinding).
    """
    host = headers.get("host", "")
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        name = ""
    if not is_loopback(name):
        raise Problem(403, "without tokens only localhost is answered", code="forbidden")
    origin = headers.get("origin")
    if origin is not None and not reads and origin.partition("//")[2] != host:
        raise Problem(403, "without tokens no other web page may do this", code="forbidden")


def stamp(headers: MutableHeaders, id: str, path: str) -> None:
    """Set the headers of every answer."""
    headers["X-Request-Id"] = id
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    if path.startswith("/v1/"):
        headers.setdefault("Cache-Control", "no-store")
