"""Progress of a run of several editors, and the time left, estimated from what it has measured."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

__all__ = ["Clock", "Progress", "Watcher", "Work"]

Work = Literal["unedited", "edit", "probe"]
"""A case probed on the unedited model, an edit, a case probed on an edited model."""

Key = tuple[Work, str]
"""Kind of work and label of the editor; all editors share the work on the unedited model."""


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a run.

    Arguments:
        editor: Label of the editor that is evaluated.
        stage: What is done with it.
        done: Number of probes on record, of all editors.
        total: Number of all probes.
        seconds_left: Estimate of the time left; ``None`` as long as some kind of work that is left
            has not been measured.
        failure: Line about the failure of the editor, after which the next one follows; or empty.
    """

    editor: str
    stage: str
    done: int
    total: int
    seconds_left: float | None
    failure: str = ""


Watcher = Callable[[Progress], None]
"""Called whenever a run makes progress."""


class Clock:
    """The work that is left, and the seconds that each kind of work took.

    ``left`` counts the pieces of work by kind and editor.
    """

    def __init__(self) -> None:
        self.left: Counter[Key] = Counter()
        self._done: Counter[Key] = Counter()
        self._seconds: dict[Key, float] = {}

    @contextmanager
    def measuring(self, work: Work, editor: str, count: int) -> Iterator[None]:
        """Context in which ``count`` pieces of the work are done."""
        start = time.perf_counter()
        yield
        key = work, editor
        self._seconds[key] = self._seconds.get(key, 0.0) + time.perf_counter() - start
        self._done[key] += count
        self.left[key] -= count

    def drop(self, editor: str) -> None:
        """Leave out the rest of the work of an editor."""
        for key in self.left:
            if key[1] == editor:
                self.left[key] = 0

    def seconds_left(self) -> float | None:
        """Time of the work that is left; ``None`` where some kind has not been measured."""
        total = 0.0
        for key, count in self.left.items():
            if count <= 0:
                continue
            seconds = self._seconds_a_piece(key)
            if seconds is None:
                return None
            total += count * seconds
        return total

    def _seconds_a_piece(self, key: Key) -> float | None:
        """Mean time of a piece of work of this editor; of all editors if it has not begun."""
        same_work = [other for other in self._done if other[0] == key[0]]
        known = [key] if self._done[key] else same_work
        pieces = sum(self._done[other] for other in known)
        if not pieces:
            return None
        return sum(self._seconds[other] for other in known) / pieces
