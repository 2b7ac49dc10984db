"""The lifelong protocol that LiveEdit's authors released: edit a window of cases, then ask about all of them.

The cases, in their given order, are cut into consecutive windows of N edits. Of each window all edits are applied
first, one after another on an otherwise unedited model, then all probes of all its cases are asked; the next window
begins with the unedited model again. The cases behind the last whole window are left out
(``evaluate_sequential_edit`` in the released ``evaluation/vllm_editor_eval.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from liveedit.errors import BadInput
from liveedit.types import Case, Query

__all__ = ["Window", "plan", "spread", "windows"]


@dataclass(frozen=True, slots=True)
class Window:
    """Cases that are edited together, the ``index``-th such at ``edits`` edits, and which of them are asked about.

    A window depends on no other one. ``asked`` are places in ``cases``, in their order.
    """

    edits: int
    index: int
    cases: tuple[Case, ...]
    asked: tuple[int, ...]

    @property
    def queries(self) -> list[Query]:
        """The edits of all cases, in their order."""
        return [query for case in self.cases for query in case.edits]

    def own(self, place: int) -> range:
        """Which of :attr:`queries` belong to the case at ``place``."""
        first = sum(len(case.edits) for case in self.cases[:place])
        return range(first, first + len(self.cases[place].edits))


def windows(cases: Sequence[Case], n: int, max_cases: int | None = None, ask: int | None = None) -> list[Window]:
    """Consecutive windows, each of as few cases as hold ``n`` edits; what is left at the end is dropped.

    Where each case has one edit these are windows of ``n`` cases. There are as many windows as cover ``max_cases``
    cases, at least one. At most ``ask`` cases of a window, evenly spread, are asked about. ``None`` is no bound. Raises
    :class:`BadInput` where the cases do not fill a single window.
    """
    made: list[Window] = []
    first = held = 0
    for stop, case in enumerate(cases, start=1):
        held += len(case.edits)
        if held >= n:
            made.append(Window(n, len(made), tuple(cases[first:stop]), spread(stop - first, ask)))
            first, held = stop, 0
            if max_cases is not None and stop >= max_cases:
                break
    if not made:
        raise BadInput(f"{len(cases)} cases are too few for {n} edits in one pool: ask for at most {held} edits")
    return made


def spread(count: int, most: int | None) -> tuple[int, ...]:
    """At most ``most`` of ``count`` places, evenly spread; all of them for ``None``."""
    if most is None or most >= count:
        return tuple(range(count))
    return tuple(place * count // most for place in range(most))


def plan(cases: Sequence[Case], edits: Sequence[int], max_cases: int, ask: int | None = None) -> list[Window]:
    """The :func:`windows` of each number in ``edits``.

    Raises :class:`BadInput` for numbers below one, for two cases of the same id, and where there are too few cases for
    one window.
    """
    if not edits or min([*edits, max_cases, 1 if ask is None else ask]) < 1:
        raise BadInput("there is nothing to evaluate: give numbers of edits and of cases, from 1 on")
    if len({case.id for case in cases}) < len(cases):
        raise BadInput("two cases have the same id: records could not tell them apart")
    return [window for n in dict.fromkeys(edits) for window in windows(cases, n, max_cases, ask)]
