"""Checks that a model accepts given images and texts, before long work with them begins."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from liveedit.errors import BadInput
from liveedit.models.encoder import Encoder
from liveedit.types import Case, Query

__all__ = ["Reader", "check_cases", "naming"]


def check_cases(vlm: Encoder, cases: Iterable[Case]) -> None:
    """Raise :class:`BadInput` for the first case with a text that the model refuses.

    The tokens of its images are not counted.
    """
    for case in cases:
        with naming(case, lambda query: vlm.check_texts([query])):
            vlm.check_texts(case.queries)


@contextmanager
def naming(case: Case, look: Callable[[Query], object]) -> Iterator[None]:
    """Let a :class:`BadInput` name the case, and its first query that ``look`` refuses."""
    try:
        yield
    except BadInput:
        for name, query in _parts(case):
            try:
                look(query)
            except BadInput as error:
                raise BadInput(f"case {case.id}, {name}: {error}") from error
        raise


def _parts(case: Case) -> Iterator[tuple[str, Query]]:
    """The queries of a case, each with its name for messages; probes are numbered as in records."""
    for number, probe in enumerate(case.probes):
        yield f"probe {number} ({probe.metric})", probe.query
    for number, edit in enumerate(case.edits):
        yield f"edit {number}", edit


class Reader:
    """Checks images, and then queries about them; remembers how many tokens each image takes."""

    def __init__(self, vlm: Encoder) -> None:
        self.vlm = vlm
        self._counts: dict[Any, list[Any]] = {}

    def look(self, image: Path) -> None:
        """Raise :class:`BadInput` for an image that the model's processor refuses."""
        _, self._counts[image] = self.vlm.open_and_process([image])

    def read(self, query: Query) -> None:
        """Raise :class:`BadInput` for a query that the model refuses.

        A query about an image that was itself refused is not checked.
        """
        if not all(image in self._counts for image in query.images):
            return
        counts = list[Any]()
        for image in query.images:
            counts += self._counts[image]
        self.vlm.check_texts([query], [counts])
