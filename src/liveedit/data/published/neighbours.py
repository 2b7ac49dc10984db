"""Questions of a published benchmark that are close to an edit, for its hard locality probes."""

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
    """A question of a record about an image, with its answer."""

    image: str
    question: str
    answer: str


class Neighbours:
    """Finds another question about an edit's image, and the edit's question about another image.

    Arguments:
        source: The benchmark.
        train: Records of the training split.
        edited: Records of the test, whose edits are all in one bank: questions whose answers these
            edits change are excluded. Empty in training, where batches hold few cases: then only
            the answer of the case's own edit is excluded.
    """

    def __init__(
        self, source: Source, train: Sequence[Annotation], edited: Sequence[Annotation]
    ) -> None:
        probes = [Asked(row.m_loc, row.m_loc_q, row.m_loc_a) for row in (*edited, *train)]
        asked = [*(Asked(row.image, row.src, row.alt) for row in train), *probes]
        self.source = source
        self.edits = _groups(edited, lambda row: row.image)
        self.subjects = {source.subject(row.image) for row in edited}
        self.by_image = _groups(asked, lambda row: row.image)
        # an editor trained on the clean split has seen no subject of the test's images
        clean = {source.subject(row.m_loc) for row in edited}
        unseen = [row for row in probes if not edited or source.subject(row.image) in clean]
        self.by_question = _groups(unseen, lambda row: _plain(row.question))

    def same_image(self, row: Annotation) -> Asked | None:
        """Another question about the image of ``row`` whose answer no edit of the image gives.

        A question with the same answer might be the edit's in other words.
        """
        edits = [row, *self.edits.get(row.image, ())]
        questions = {_plain(edit.src) for edit in edits}
        answers = {_plain(edit.alt) for edit in edits}
        for other in self.by_image.get(row.image, ()):
            if _plain(other.question) not in questions and _plain(other.answer) not in answers:
                return other
        return None

    def look_alike(self, row: Annotation) -> Asked | None:
        """The question of ``row`` about an image of another subject, which no edit changes."""
        subject = self.source.subject
        others = [
            other
            for other in self.by_question.get(_plain(row.src), ())
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
    """Text in lower case, without surrounding spaces and a final full stop.

    The hard probes depend on it, so it stays as it is whatever form scores compare answers in.
    """
    return text.strip().removesuffix(".").lower()
