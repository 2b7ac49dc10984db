"""Arriving: connections whose requests have to arrive in time, and do not hold up a stop.

A request arrives until its last byte is there. uvicorn waits for that as long as the client likes.
"""

import asyncio
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from liveedit.serve.problems import Problem

__all__ = ["Arriving"]

RATE = 16_000
"""Bytes a second that a slow client sends at least; each second's worth gives it one more."""
UNFINISHED = (h11.IDLE, h11.SEND_BODY)
"""The client's states while its request arrives."""


class Arriving(H11Protocol):
    """A connection.

    Arguments:
        patience: Seconds in which headers and body of a request have to arrive, and longer as long
            as they come at :data:`RATE`.
        others: What uvicorn gives.
    """

    def __init__(self, patience: float, *others: Any, **more: Any) -> None:
        super().__init__(*others, **more)
        self.patience = patience
        self._begun = 0.0
        self._received = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request."""
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request, the first or a further one."""
        if self._timer is None:
            self._expect()
        self._received += len(data)
        super().data_received(data)
        if self.conn.their_state not in UNFINISHED:
            self._stop_timer()

    def shutdown(self) -> None:
        """End with the answer that runs; a request that has not arrived is turned away."""
        if self.conn.their_state is h11.SEND_BODY:
            self._turn_away(Problem(503, "the server stops: ask again later", code="stopping"))
        super().shutdown()

    def _expect(self) -> None:
        """Give the next request its time."""
        self._begun = self.loop.time()
        self._received = 0
        self._timer = self.loop.call_later(self.patience, self._check)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        """Turn the request away unless it came fast enough so far."""
        due = self._begun + self.patience + self._received / RATE
        if self.loop.time() < due:
            self._timer = self.loop.call_at(due, self._check)
        else:
            late = f"the request has not arrived within {self.patience:g} seconds: send it faster"
            self._turn_away(Problem(408, late, code="request_timeout"))

    def _turn_away(self, problem: Problem) -> None:
        """Close the connection, with an answer to what has arrived of a request."""
        if self._received and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._answer(problem)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _answer(self, problem: Problem) -> None:
        response = problem.response()
        headers = [*response.raw_headers, (b"connection", b"close")]
        phrase = HTTPStatus(problem.status).phrase.encode()
        start = h11.Response(status_code=problem.status, headers=headers, reason=phrase)
        for event in (start, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
