"""Protocols: what is edited in which order, and when is asked about what.

A protocol makes pools of the cases, in their given order. A **pool** starts from the unedited model
and is edited case by case, never reset; at its **points** some of the cases edited so far are asked
about.

==========
==========================================================================================================
`Windows`   LiveEdit's: consecutive windows of N edits; all of a window is edited on the unedited
model, then all of it
            is asked about; the cases behind the last whole window are left out (``evaluate_sequential_edit`` in the
            released ``evaluation/vllm_editor_eval.py``). N = 1 is the papers' single edit. Windows of several N that
            begin with the same case are one pool, which is asked about on its way
`Stream`    one pool that grows; at 1, 10, 100 … edits all cases edited so far are asked about `Gap`
VLKEB's: one pool that grows case by case; each of the first cases is asked about after exactly so
many
            further ones (``test_sequencial`` in the released ``MultimodalTrainer.py``)
==========
==========================================================================================================
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, ClassVar

from liveedit.errors import BadInput
from liveedit.types import Case, Query

__all__ = [
    "PROTOCOLS",
    "Ask",
    "Gap",
    "Point",
    "Pool",
    "Protocol",
    "Stream",
    "Windows",
    "new_protocol",
    "plan",
    "spread",
]

STRIDE = 100
"""At most so many cases are edited in one call of the editor, so that a long pool tells how it gets
on.
"""


@dataclass(frozen=True, slots=True)
class Point:
    """Once the first ``made`` cases of a pool are edited, those at ``asked`` are asked about.

    It is the ``window``-th, from 0 on, with N = ``edits``.
    """

    edits: int
    made: int
    asked: tuple[int, ...]
    window: int = 0


@dataclass(frozen=True, eq=False)
class Pool:
    """Cases edited one after another, the unedited model being the start, and the points in their
    order.
    """

    cases: tuple[Case, ...]
    points: tuple[Point, ...]

    @cached_property
    def steps(self) -> list[tuple[int, int]]:
        """The half-open ranges of cases that the editor gets in one call; one ends at each point."""
        ends = {point.made for point in self.points} | set(
            range(STRIDE, self.points[-1].made, STRIDE)
        )
        return list(pairwise([0, *sorted(ends)]))

    @cached_property
    def held(self) -> list[int]:
        """How many edits the pool holds with the first 0, 1, 2 … cases edited."""
        return [0, *accumulate(len(case.edits) for case in self.cases)]

    def queries(self, start: int, stop: int) -> list[Query]:
        """The edits of the cases from ``start`` to before ``stop``, in their order."""
        return [query for case in self.cases[start:stop] for query in case.edits]


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """One case, at ``place`` in a pool, asked about at one of its points."""

    pool: Pool
    point: Point
    place: int

    @property
    def case(self) -> Case:
        """What is asked about."""
        return self.pool.cases[self.place]

    @property
    def images(self) -> list[Any]:
        """All images that are edited or asked about for it."""
        queries = [*self.pool.queries(0, self.point.made), *self.case.queries]
        return [image for query in queries for image in query.images]

    @property
    def own(self) -> range:
        """Which of the pool's edits belong to the case."""
        return range(self.pool.held[self.place], self.pool.held[self.place + 1])

    @property
    def later(self) -> int:
        """How many edits were made after the case's own."""
        return self.pool.held[self.point.made] - self.own.stop


@dataclass(frozen=True)
class Windows:
    """For each N in ``edits`` consecutive windows, each of as few cases as hold N edits; the rest
    is dropped.

    There are as many windows as cover ``max_cases`` cases, at least one.

    Arguments:
        edits: The numbers N of edits; a window has as few cases as hold N edits.
        max_cases: Number of cases after which no further window of an N begins.
        ask: Largest number of cases of a window, evenly spread, to evaluate; ``None``: all.
    """

    name: ClassVar[str] = "windows"
    edits: tuple[int, ...] = (1, 10, 100, 1000)
    max_cases: int = 200
    ask: int | None = None

    def pools(self, cases: Sequence[Case]) -> list[Pool]:
        """A pool for each case that begins a window. Raises :class:`BadInput` where an N has no
        whole window.
        """
        begun: dict[int, list[Point]] = {}
        for n in sorted(set(self.edits)):
            for window, (first, stop) in enumerate(self._windows(cases, n)):
                begun.setdefault(first, []).append(
                    Point(n, stop - first, spread(stop - first, self.ask), window)
                )
        return [
            Pool(tuple(cases[first : first + points[-1].made]), tuple(points))
            for first, points in sorted(begun.items())
        ]

    def _windows(self, cases: Sequence[Case], n: int) -> Iterator[tuple[int, int]]:
        """The half-open ranges of cases that are the windows of ``n`` edits."""
        stop = filled(cases, n)
        if not stop:
            raise too_few(cases, n)
        first = 0
        while first < stop:
            yield first, stop
            first, stop = stop, stop + filled(cases[stop:], n) if stop < self.max_cases else stop


@dataclass(frozen=True)
class Stream:
    """One pool; at each N the cases edited so far are asked about.

    Arguments:
        edits: The numbers N of edits.
        ask: Largest number of cases, evenly spread, to evaluate at a point; ``None``: all.
    """

    name: ClassVar[str] = "stream"
    edits: tuple[int, ...] = (1, 10, 100, 1000)
    ask: int | None = None

    def pools(self, cases: Sequence[Case]) -> list[Pool]:
        """The pool. Raises :class:`BadInput` where there are fewer edits than the largest N."""
        points = []
        for n in sorted(set(self.edits)):
            made = filled(cases, n)
            if not made:
                raise too_few(cases, n)
            points.append(Point(n, made, spread(made, self.ask)))
        return [Pool(tuple(cases[: points[-1].made]), tuple(points))]


@dataclass(frozen=True)
class Gap:
    """One pool; each of the first ``max_cases`` cases is asked about when each of ``gaps`` further
    ones is edited.

    The stream is the same for every gap, so one pass serves all. N is how many edits the pool holds
    then.

    Arguments:
        gaps: Numbers of further cases.
        max_cases: Number of first cases.
        ask: Largest number of first cases, evenly spread, to evaluate; ``None``: all.
    """

    name: ClassVar[str] = "gap"
    gaps: tuple[int, ...] = (10, 20, 50, 100)
    max_cases: int = 200
    ask: int | None = None

    def pools(self, cases: Sequence[Case]) -> list[Pool]:
        """The pool. Raises :class:`BadInput` where fewer cases follow the first ones than the
        largest gap.
        """
        total = self.max_cases + max(self.gaps)
        if total > len(cases):
            raise BadInput(
                f"{len(cases)} cases are too few for {self.max_cases} and {max(self.gaps)} after them: ask for less"
            )
        asked = spread(self.max_cases, self.ask)
        held = [0, *accumulate(len(case.edits) for case in cases[:total])]
        due: dict[int, list[int]] = {}
        for place in asked:
            for gap in set(self.gaps):
                due.setdefault(place + 1 + gap, []).append(place)
        points = tuple(
            Point(held[made], made, tuple(sorted(places))) for made, places in sorted(due.items())
        )
        return [Pool(tuple(cases[: points[-1].made]), points)]


Protocol = Windows | Stream | Gap
PROTOCOLS: dict[str, type[Protocol]] = {kind.name: kind for kind in (Windows, Stream, Gap)}
"""All protocols by name."""


def new_protocol(name: str, options: Mapping[str, Any]) -> Protocol:
    """The protocol ``name`` with those of the options that it has.

    Raises :class:`BadInput` for a name that does not exist.
    """
    if name not in PROTOCOLS:
        *others, last = PROTOCOLS
        raise BadInput(f"there is no protocol '{name}': choose {', '.join(others)} or {last}")
    kind = PROTOCOLS[name]
    own = {field.name for field in fields(kind)}
    return kind(**{option: value for option, value in options.items() if option in own})


def filled(cases: Sequence[Case], n: int) -> int:
    """How many of the first cases it takes for ``n`` edits; 0 if all are too few."""
    held = accumulate(len(case.edits) for case in cases)
    return next((count for count, edits in enumerate(held, start=1) if edits >= n), 0)


def too_few(cases: Sequence[Case], n: int) -> BadInput:
    """What to raise where the cases do not hold ``n`` edits."""
    most = sum(len(case.edits) for case in cases)
    return BadInput(
        f"{len(cases)} cases are too few for {n} edits in one pool: ask for at most {most} edits"
    )


def spread(count: int, most: int | None) -> tuple[int, ...]:
    """At most ``most`` of ``count`` places, evenly spread; all of them for ``None``."""
    if most is None or most >= count:
        return tuple(range(count))
    return tuple(place * count // most for place in range(most))


def plan(cases: Sequence[Case], protocol: Protocol) -> list[Ask]:
    """All that ``protocol`` asks, in its order.

    Raises :class:`BadInput` for numbers below one, for two cases of the same id, and where there
    are too few cases.
    """
    sizes = protocol.gaps if isinstance(protocol, Gap) else protocol.edits
    most = 1 if isinstance(protocol, Stream) else protocol.max_cases
    if not sizes or min([*sizes, most, 1 if protocol.ask is None else protocol.ask]) < 1:
        raise BadInput(
            "there is nothing to evaluate: give numbers of edits and of cases, from 1 on"
        )
    if len({case.id for case in cases}) < len(cases):
        raise BadInput("two cases have the same id: records could not tell them apart")
    pools = protocol.pools(cases)
    return [
        Ask(pool, point, place) for pool in pools for point in pool.points for place in point.asked
    ]
