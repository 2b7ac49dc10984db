"""How far a run of several editors is, and how long it still takes by what it has measured so far."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

__all__ = ["Clock", "Progress", "Watcher", "Work"]

Work = Literal["unedited", "edit", "ask"]
"""A case asked about before any edit, an edit, a case asked about after it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """``done`` of ``total`` probes of all editors are on record; ``editor`` is at ``stage``.

    ``seconds_left`` is ``None`` as long as some of the work that is left has not been measured
    once. ``failure`` says, if it is not empty, of what the editor has just failed; the next one is
    begun.
    """

    editor: str
    stage: str
    done: int
    total: int
    seconds_left: float | None
    failure: str = ""


Watcher = Callable[[Progress], None]


class Clock:
    """What is left to do, by kind of work and by editor, and the seconds that such work took."""

    def __init__(self) -> None:
        self.left: Counter[tuple[Work, str]] = Counter()
        self._done: Counter[tuple[Work, str]] = Counter()
        self._seconds: dict[tuple[Work, str], float] = {}

    @contextmanager
    def doing(self, work: Work, editor: str, count: int) -> Iterator[None]:
        """Within it ``count`` pieces of the work are done."""
        start = time.perf_counter()
        yield
        key = work, editor
        self._seconds[key] = self._seconds.get(key, 0.0) + time.perf_counter() - start
        self._done[key] += count
        self.left[key] -= count

    def drop(self, editor: str) -> None:
        """Nothing more will be done of this editor."""
        for key in self.left:
            if key[1] == editor:
                self.left[key] = 0

    def seconds_left(self) -> float | None:
        """The work that is left times what a piece took this editor, or all of them if it has not
        begun.
        """
        total = 0.0
        for (work, editor), count in self.left.items():
            known = (
                [(work, editor)]
                if self._done[work, editor]
                else [key for key in self._done if key[0] == work]
            )
            pieces = sum(self._done[key] for key in known)
            if count > 0 and not pieces:
                return None
            total += count * sum(self._seconds[key] for key in known) / pieces if count > 0 else 0.0
        return total
