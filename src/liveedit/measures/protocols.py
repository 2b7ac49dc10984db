"""Protocols: in which order cases are edited, and after which edits they are evaluated.

A protocol arranges the cases, in their given order, in edit sequences. An :class:`EditSequence`
starts from the unedited model and is edited case by case, never reset; at its :class:`Point` s some
of the cases edited so far are evaluated.

To add a protocol, write its class and list it in :data:`PROTOCOLS`: the command line takes its
name, its fields being the options, and the report shows its records.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Literal

from liveedit.errors import BadInput
from liveedit.types import Case, Query, Record

__all__ = [
    "PROTOCOLS",
    "PROTOCOL_NAMES",
    "STRIDE",
    "EditSequence",
    "Gap",
    "Point",
    "Protocol",
    "Stream",
    "Windows",
    "new_protocol",
    "protocol_named",
    "protocol_order",
    "setting_label",
    "size_of",
    "spread",
    "titled",
]

STRIDE = 100
"""Largest number of cases in one call of the editor, so that a long sequence shows its progress."""


@dataclass(frozen=True, slots=True)
class Point:
    """A point of an edit sequence at which cases are evaluated.

    Arguments:
        edits: N, the number of edits after which this point evaluates.
        cases_edited: Number of cases edited before it.
        evaluated: Indices in the sequence of the cases to evaluate.
        window: Index of the window of N edits, counted from 0.
    """

    edits: int
    cases_edited: int
    evaluated: tuple[int, ...]
    window: int = 0


@dataclass(frozen=True, eq=False)
class EditSequence:
    """Cases that are edited one after another into one model, and the points of evaluation.

    Arguments:
        cases: The cases in the order of their edits.
        points: The points in their order.
    """

    cases: tuple[Case, ...]
    points: tuple[Point, ...]

    @cached_property
    def steps(self) -> list[tuple[int, int]]:
        """Half-open ranges of the cases of each call of the editor; one ends at each point."""
        stops = {point.cases_edited for point in self.points}
        stops.update(range(STRIDE, self.points[-1].cases_edited, STRIDE))
        return list(pairwise([0, *sorted(stops)]))

    @cached_property
    def edits_after(self) -> list[int]:
        """Number of edits in the model after the first 0, 1, 2 … cases."""
        return [0, *accumulate(len(case.edits) for case in self.cases)]

    def edits_between(self, start: int, stop: int) -> list[Query]:
        """The edits of the cases from ``start`` to before ``stop``, in their order."""
        found = list[Query]()
        for case in self.cases[start:stop]:
            found += case.edits
        return found


@dataclass(frozen=True)
class Protocol(ABC):
    """Base class of the protocols. The fields of a protocol are its options, all at least 1."""

    name: ClassVar[str] = ""
    """Name in records and on the command line."""
    meaning: ClassVar[str] = ""
    """One sentence that explains it."""
    size_heading: ClassVar[str] = "N"
    """Heading of the number that distinguishes its evaluations: N unless it says otherwise."""
    size_field: ClassVar[Literal["edits", "later"]] = "edits"
    """Field of a record that holds this number."""
    named_in_titles: ClassVar[bool] = True
    """Whether titles and labels name the protocol."""
    measures_forgetting: ClassVar[bool] = True
    """Whether records of one editor differ in the number of later edits."""

    @abstractmethod
    def sequences(self, cases: Sequence[Case]) -> list[EditSequence]:
        """The edit sequences. Raises :class:`BadInput` where there are too few cases."""

    def check(self) -> None:
        """Raise :class:`BadInput` for an option without a number or with one below 1."""
        for field in fields(self):
            value = getattr(self, field.name)
            numbers = value if isinstance(value, tuple) else (value,)
            if not numbers or any(number is not None and number < 1 for number in numbers):
                raise BadInput(
                    "there is nothing to evaluate: numbers of edits and of cases must be at least 1"
                )


@dataclass(frozen=True)
class Windows(Protocol):
    """LiveEdit's protocol: consecutive windows of N edits, each on the unedited model.

    All of a window is edited, then evaluated; cases after the last whole window are left out
    (``evaluate_sequential_edit`` in the released ``evaluation/vllm_editor_eval.py``). N = 1 is the
    papers' single edit. Windows of several N that begin with the same case are one sequence, which
    is evaluated on the way. There are as many windows as are needed for ``max_cases`` cases, at
    least one.

    Arguments:
        edits: The numbers N of edits; a window has the smallest number of cases with N edits.
        max_cases: Number of cases after which no further window of an N begins.
        ask: Largest number of cases of a window, evenly spread, to evaluate; ``None``: all.
    """

    name: ClassVar[str] = "windows"
    meaning: ClassVar[str] = "Windows of N edits, each on the unedited model, then evaluated whole."
    named_in_titles: ClassVar[bool] = False
    measures_forgetting: ClassVar[bool] = False

    edits: tuple[int, ...] = (1, 10, 100, 1000)
    max_cases: int = 200
    ask: int | None = None

    def sequences(self, cases: Sequence[Case]) -> list[EditSequence]:
        """A sequence for each case that begins a window, by the order of the cases."""
        points: dict[int, list[Point]] = {}
        for n in sorted(set(self.edits)):
            for window, (first, stop) in enumerate(self._windows(cases, n)):
                evaluated = spread(stop - first, self.ask)
                point = Point(n, stop - first, evaluated, window)
                points.setdefault(first, []).append(point)
        return [_sequence(cases[first:], found) for first, found in sorted(points.items())]

    def _windows(self, cases: Sequence[Case], n: int) -> Iterator[tuple[int, int]]:
        """The half-open ranges of cases that are the windows of ``n`` edits."""
        first = 0
        stop = _cases_for(cases, n)
        while first < stop:
            yield first, stop
            first = stop
            if first < self.max_cases:
                stop = first + _count_cases(cases[first:], n)


@dataclass(frozen=True)
class Stream(Protocol):
    """One sequence; at each N the cases edited so far are evaluated.

    Arguments:
        edits: The numbers N of edits.
        ask: Largest number of cases, evenly spread, to evaluate at a point; ``None``: all.
    """

    name: ClassVar[str] = "stream"
    meaning: ClassVar[str] = "One growing sequence; at each N all edits so far are evaluated."

    edits: tuple[int, ...] = (1, 10, 100, 1000)
    ask: int | None = None

    def sequences(self, cases: Sequence[Case]) -> list[EditSequence]:
        """The one sequence."""
        points = []
        for n in sorted(set(self.edits)):
            count = _cases_for(cases, n)
            points.append(Point(n, count, spread(count, self.ask)))
        return [_sequence(cases, points)]


@dataclass(frozen=True)
class Gap(Protocol):
    """VLKEB's protocol: one sequence; each of the first cases is evaluated after later edits.

    A case is evaluated when exactly that many further cases are edited (``test_sequencial`` in the
    released ``MultimodalTrainer.py``). The sequence is the same for every gap, so one pass
    evaluates all gaps. N is the number of edits in the model at that point.

    Arguments:
        gaps: Numbers of further cases.
        max_cases: Number of first cases.
        ask: Largest number of first cases, evenly spread, to evaluate; ``None``: all.
    """

    name: ClassVar[str] = "gap"
    meaning: ClassVar[str] = (
        "One growing sequence; a case is evaluated once a number of further cases are edited; "
        "the gap is the number of their edits."
    )
    size_heading: ClassVar[str] = "Gap"
    size_field: ClassVar[Literal["edits", "later"]] = "later"

    gaps: tuple[int, ...] = (10, 20, 50, 100)
    max_cases: int = 200
    ask: int | None = None

    def sequences(self, cases: Sequence[Case]) -> list[EditSequence]:
        """The one sequence."""
        largest = max(self.gaps)
        total = self.max_cases + largest
        if total > len(cases):
            raise BadInput(
                f"{len(cases)} cases are too few for {self.max_cases} and {largest} after them: "
                "lower max_cases or the gaps"
            )
        due: dict[int, list[int]] = {}
        for index in spread(self.max_cases, self.ask):
            for gap in set(self.gaps):
                due.setdefault(index + 1 + gap, []).append(index)
        edits = [0, *accumulate(len(case.edits) for case in cases[:total])]
        points = [
            Point(edits[count], count, tuple(sorted(indices)))
            for count, indices in sorted(due.items())
        ]
        return [_sequence(cases, points)]


PROTOCOLS: dict[str, type[Protocol]] = {kind.name: kind for kind in (Windows, Stream, Gap)}
"""All protocols by name, in the order of the tables. A new one is one more class in the tuple."""
PROTOCOL_NAMES = " or ".join(", ".join(PROTOCOLS).rsplit(", ", 1))
"""Their names in a sentence: "windows, stream or gap"."""


def new_protocol(name: str, options: Mapping[str, Any]) -> Protocol:
    """The protocol ``name`` with those of the options that it has.

    Raises :class:`BadInput` for a name that does not exist.
    """
    if name not in PROTOCOLS:
        raise BadInput(f"there is no protocol '{name}': choose {PROTOCOL_NAMES}")
    kind = PROTOCOLS[name]
    own = {field.name for field in fields(kind)}
    return kind(**{option: value for option, value in options.items() if option in own})


def spread(count: int, most: int | None) -> tuple[int, ...]:
    """At most ``most`` of ``count`` indices, evenly spread; all of them for ``None``."""
    if most is None or most >= count:
        return tuple(range(count))
    return tuple(index * count // most for index in range(most))


def _sequence(cases: Sequence[Case], points: Sequence[Point]) -> EditSequence:
    """The sequence of the first cases, up to the last point."""
    return EditSequence(tuple(cases[: points[-1].cases_edited]), tuple(points))


def _cases_for(cases: Sequence[Case], n: int) -> int:
    """Number of first cases that hold ``n`` edits. Raises :class:`BadInput` for too few cases."""
    if count := _count_cases(cases, n):
        return count
    most = sum(len(case.edits) for case in cases)
    raise BadInput(f"{len(cases)} cases are too few for {n} edits: ask for at most {most} edits")


def _count_cases(cases: Sequence[Case], n: int) -> int:
    """Number of first cases that hold ``n`` edits; 0 if all are too few."""
    edits = accumulate(len(case.edits) for case in cases)
    return next((count for count, made in enumerate(edits, start=1) if made >= n), 0)


# How the report shows a protocol


def protocol_named(name: str) -> type[Protocol]:
    """The class of a protocol; the base class, with its defaults, for one of another version."""
    return PROTOCOLS.get(name, Protocol)


def protocol_order(name: str) -> tuple[int, str]:
    """Sort key: the declared protocols in their order, then the others by name."""
    return list(PROTOCOLS).index(name) if name in PROTOCOLS else len(PROTOCOLS), name


def size_of(record: Record) -> int:
    """The number under which tables show a record: N, or what its protocol shows instead."""
    size: int = getattr(record, protocol_named(record.protocol).size_field)
    return size


def setting_label(protocol: str, size: int) -> str:
    """Label of one N of a protocol, different from all other labels."""
    return f"{protocol} {size:,}" if protocol_named(protocol).named_in_titles else f"{size:,}"


def titled(title: str, protocol: str) -> str:
    """``title`` with the name of the protocol, if titles name that protocol."""
    return f"{title}, {protocol}" if protocol_named(protocol).named_in_titles else title
