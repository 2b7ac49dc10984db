"""Reports: with what the last requests were answered, until their clients ask."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from liveedit.store.store import Kept

__all__ = ["Reports"]

MOST = 10_000
"""Requests that are remembered."""


class Reports:
    """The fields that an answer gets (:mod:`liveedit.serve.chat`), by the request's id."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def add(self, id: str, fingerprint: str, fired: Sequence[tuple[Kept, float]] = ()) -> None:
        """Remember the state of the edits that a request meets, and those that fired on it."""
        named = [{"id": row.edit.id, "weight": weight} for row, weight in fired]
        self._kept[id] = {"system_fingerprint": fingerprint, "liveedit": {"fired": named}}
        if len(self._kept) > MOST:
            self._kept.popitem(last=False)

    def of(self, id: str) -> dict[str, Any] | None:
        """The fields for an answer; ``None`` if the request is not known.

        The prompts of one request to complete several have its id with their numbers.
        """
        found = self._kept.get(id)
        if found is None and (first := self._kept.get(f"{id}-0")):
            found = {**first, "liveedit": {"fired": self._fired_on_prompts(id)}}
        return found

    def _fired_on_prompts(self, id: str) -> list[dict[str, Any]]:
        """The edits that fired on the prompts of a request."""
        fired = []
        number = 0
        while one := self._kept.get(f"{id}-{number}"):
            fired += one["liveedit"]["fired"]
            number += 1
        return fired
