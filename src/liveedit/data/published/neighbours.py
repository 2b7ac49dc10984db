"""What the records of a published benchmark ask close to an edit: what its hard locality probes are
made of.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from liveedit.data.published.annotations import Annotation
from liveedit.data.published.sources import Source

__all__ = ["Asked", "Neighbours"]

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that a record asks about an image, and its answer."""

    image: str
    question: str
    answer: str


class Neighbours:
    """Something else about an edit's image, and the same about something else.

    ``edited`` are the records of the test, whose edits stand in one pool: nothing that they edit is
    asked for. In training, which sees a few cases at a time, there are none, and only the case's
    own edit is not asked for.
    """

    def __init__(
        self, source: Source, train: Sequence[Annotation], edited: Sequence[Annotation]
    ) -> None:
        probes = [Asked(row.m_loc, row.m_loc_q, row.m_loc_a) for row in (*edited, *train)]
        asked = [*(Asked(row.image, row.src, row.alt) for row in train), *probes]
        self.source = source
        self.edits = _groups(edited, lambda row: row.image)
        self.subjects = {source.subject(row.image) for row in edited}
        self.about = _groups(asked, lambda row: row.image)
        # An editor trained on the clean split has seen nothing of what the images of the test show.
        held = {source.subject(row.m_loc) for row in edited}
        unseen = [row for row in probes if not edited or source.subject(row.image) in held]
        self.asking = _groups(unseen, lambda row: _plain(row.question))

    def same_image(self, row: Annotation) -> Asked | None:
        """Another question about the image of ``row``, with another answer than any edit of this
        image gives.

        A question with the same answer might be the edit's in other words.
        """
        edits = [row, *self.edits.get(row.image, ())]
        questions, answers = (
            {_plain(edit.src) for edit in edits},
            {_plain(edit.alt) for edit in edits},
        )
        others = (
            other
            for other in self.about.get(row.image, ())
            if _plain(other.question) not in questions and _plain(other.answer) not in answers
        )
        return next(others, None)

    def look_alike(self, row: Annotation) -> Asked | None:
        """The question of ``row``, asked about an image of a subject of which nothing is edited."""
        subject = self.source.subject
        others = [
            other
            for other in self.asking.get(_plain(row.src), ())
            if subject(other.image) not in self.subjects
            and subject(other.image) != subject(row.image)
        ]
        return others[row.number % len(others)] if others else None


def _groups(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(groups)


def _plain(text: str) -> str:
    """Text but for case, surrounding spaces and a final full stop."""
    return text.strip().removesuffix(".").lower()
