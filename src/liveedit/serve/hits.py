"""Hits: keeps in the store which edits fired, in the background, many at once."""

import logging
from collections.abc import Iterable
from threading import Condition, Thread

from liveedit.errors import LiveEditError
from liveedit.store.store import Hit, Store

__all__ = ["Hits"]

LOG = logging.getLogger("liveedit.serve")
PAUSE = 1.0
"""Seconds between two writes."""
MOST = 100_000
"""Hits that wait while the store cannot be written; the oldest of more are dropped."""


class Hits:
    """Writes hits to a store; :meth:`close` writes the rest."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._waiting: list[Hit] = []
        self._changed = Condition()
        self._closed = False
        self._thread = Thread(target=self._run, name="hits", daemon=True)
        self._thread.start()

    def add(self, hits: Iterable[Hit]) -> None:
        """Keep these soon."""
        with self._changed:
            self._waiting += hits

    def close(self) -> None:
        """Write what waits, and stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                closed = self._changed.wait_for(lambda: self._closed, timeout=PAUSE)
            self._write()
            if closed:
                return

    def _write(self) -> None:
        with self._changed:
            hits = self._waiting
            self._waiting = []
        try:
            self.store.record_hits(hits)
        except LiveEditError as error:
            LOG.warning("%d hits wait: %s", len(hits), error)
            with self._changed:
                self._waiting = [*hits, *self._waiting][-MOST:]
