"""Turns: several threads take turns, so that one of them runs at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition
from time import perf_counter

__all__ = ["Turns"]


class Turns:
    """Threads of which one runs: the one whose requests have had the least time so far."""

    def __init__(self) -> None:
        self._used: dict[object, float] = {}
        """Seconds that each thread has run, divided by its requests; one that comes later begins
        with the least of them.
        """
        self._running: object = None
        self._since = 0.0
        self._moved = Condition()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """A context that begins when it is this thread's turn; see :meth:`pass_on`."""
        place = object()
        with self._moved:
            self._used[place] = min(self._used.values(), default=0.0)
            if self._running is None:
                self._next()
            self._await(place)
        try:
            yield
        finally:
            with self._moved:
                del self._used[place]
                self._next()

    def pass_on(self, requests: int) -> None:
        """Within :meth:`taken`: let others run, until it is this thread's turn again.

        ``requests`` is how many it works for; each gets the same share of the time.
        """
        with self._moved:
            place = self._running
            self._used[place] += (perf_counter() - self._since) / requests
            self._next()
            self._await(place)

    def _next(self) -> None:
        self._running = min(self._used, key=self._used.__getitem__, default=None)
        self._since = perf_counter()
        self._moved.notify_all()

    def _await(self, place: object) -> None:
        self._moved.wait_for(lambda: self._running is place)
