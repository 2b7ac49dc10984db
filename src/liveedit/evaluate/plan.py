"""The evaluations that a protocol requires, in their order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from liveedit.errors import BadInput
from liveedit.measures.protocols import EditSequence, Point, Protocol
from liveedit.types import Case

__all__ = ["Request", "plan"]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """The evaluation of one case at one point of an edit sequence.

    Arguments:
        sequence: The edit sequence.
        point: The point.
        index: Index of the case in the sequence.
    """

    sequence: EditSequence
    point: Point
    index: int

    @property
    def case(self) -> Case:
        """The case to evaluate."""
        return self.sequence.cases[self.index]

    @property
    def images(self) -> list[Any]:
        """The images of all its edits and probes."""
        edits = self.sequence.edits_between(0, self.point.cases_edited)
        found: list[Any] = []
        for query in (*edits, *self.case.queries):
            found += query.images
        return found

    @property
    def own(self) -> range:
        """Indices, among the edits of the sequence, of those of the case."""
        edits_after = self.sequence.edits_after
        return range(edits_after[self.index], edits_after[self.index + 1])

    @property
    def later(self) -> int:
        """Number of edits made after those of the case."""
        return self.sequence.edits_after[self.point.cases_edited] - self.own.stop


def plan(cases: Sequence[Case], protocol: Protocol) -> list[Request]:
    """All evaluations of ``protocol``; those of a sequence are contiguous.

    Raises :class:`BadInput` for numbers below one, for two cases of the same id, and where there
    are too few cases.
    """
    protocol.check()
    if len({case.id for case in cases}) < len(cases):
        raise BadInput("two cases have the same id, so records could not name them: rename one")
    requests = []
    for sequence in protocol.sequences(cases):
        for point in sequence.points:
            requests += [Request(sequence, point, index) for index in point.evaluated]
    return requests
