"""Turns: several threads take turns, so that one of them runs at a time."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

__all__ = ["Turns"]


class Turns:
    """A line of threads. The first of them runs, the others wait."""

    def __init__(self) -> None:
        self._line: deque[object] = deque()
        self._moved = Condition()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """A context that begins when it is this thread's turn, at the end of the line."""
        place = object()
        with self._moved:
            self._line.append(place)
            self._await(place)
        try:
            yield
        finally:
            with self._moved:
                self._line.popleft()
                self._moved.notify_all()

    def pass_on(self) -> None:
        """Within :meth:`taken`: let each of the others run once, and go on when they have."""
        with self._moved:
            place = self._line[0]
            self._line.rotate(-1)
            self._moved.notify_all()
            self._await(place)

    def _await(self, place: object) -> None:
        self._moved.wait_for(lambda: self._line[0] is place)
