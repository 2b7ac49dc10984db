"""Answers being generated: the state of a patch for a prompt, kept with the prompt's cache.

So each of any number of threads and interleaved requests gets the same answer as alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from liveedit.errors import BadInput
from liveedit.models.batch import Batch
from liveedit.models.calls import Call
from liveedit.models.greedy import LOOKUP
from liveedit.models.patch import Patch, SiteFn, overrides

__all__ = ["Answer", "CachedAnswers"]

ATTRIBUTE = "liveedit_answers"
"""The attribute of a cache that holds the answers which continue after it."""


@dataclass(slots=True, eq=False)
class Answer:
    """A patch's functions for one batch of prompts, and for all tokens generated after them."""

    patch: Patch
    batch: Batch
    functions: dict[str, SiteFn] = field(default_factory=dict)

    def methods(self, name: str) -> list[Callable[..., None]]:
        """The methods of this name of the objects that the functions belong to, one per object."""
        owners = [getattr(function, "__self__", function) for function in self.functions.values()]
        distinct = {id(owner): owner for owner in owners}.values()
        return [getattr(owner, name) for owner in distinct if hasattr(owner, name)]

    def goes_on(self, call: Call, ids: Tensor | None) -> None:
        """Continue after ``call.past`` tokens; what is no longer in the cache is forgotten.

        Raises :class:`BadInput` if the tokens ``ids`` (B, T') replace some of the prompt's.
        """
        within = [row for row, span in enumerate(self.batch.spans) if call.past < span.prompt[1]]
        if within and (
            ids is None
            or not torch.equal(ids[within, 0], self.batch.inputs["input_ids"][within, call.past])
        ):
            raise BadInput(
                "the tokens after this cropped cache differ from the prompt it was filled with: "
                f"give the whole text again, and generate without {LOOKUP}"
            )
        for rewind in self.methods("rewind"):
            rewind(call.past)
        if overrides(self.patch, "merge") and ids is not None:
            self.batch = self.batch.until(call.past).extended(ids)

    def reorder(self, rows: Tensor) -> None:
        """Let row i continue the former row ``rows[i]``, as beams do."""
        self.batch = self.batch.pick(rows)
        for reorder in self.methods("reorder"):
            reorder(rows)


class CachedAnswers(dict[Patch, Answer]):
    """The answers that continue after one cache, by their patches; a copy starts empty."""

    def __deepcopy__(self, _memo: Any) -> "CachedAnswers":
        return CachedAnswers()

    @classmethod
    def of(cls, cache: Any) -> "CachedAnswers":
        """The answers of ``cache``.

        The first call attaches an empty store to the cache and wraps its methods in
        :data:`ORDERS`, so that reordering the cache's rows, as beams do, reorders the answers.
        """
        found: CachedAnswers | None = getattr(cache, ATTRIBUTE, None)
        if found is None:
            found = cls()
            setattr(cache, ATTRIBUTE, found)
            for name in ORDERS:
                if hasattr(cache, name):
                    setattr(cache, name, ReorderingMethod(cache, name))
        return found


class ReorderingMethod:
    """Stands in for a cache's method that reorders rows, and reorders the answers with them.

    It refers to the cache weakly, so that no cycle keeps the cache in memory.
    """

    def __init__(self, cache: Any, name: str) -> None:
        self.cache = ref(cache)
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle so that in a copy of the cache this belongs to the copy."""
        return ReorderingMethod, (self.cache(), self.name)

    def __call__(self, given: Any) -> None:
        """Call the cache's own method, and reorder the answers likewise."""
        cache = self.cache()
        getattr(type(cache), self.name)(cache, given)
        for answer in CachedAnswers.of(cache).values():
            answer.reorder(ORDERS[self.name](torch.arange(len(answer.batch)), given))


def selected(rows: Tensor, given: Any) -> Tensor:
    """Those of ``rows`` (B,) that ``given`` selects, as indices or as a mask."""
    return rows[given.to(rows.device) if isinstance(given, Tensor) else given]


ORDERS: dict[str, Callable[..., Tensor]] = {
    "reorder_cache": selected,
    "batch_select_indices": selected,
    "batch_repeat_interleave": Tensor.repeat_interleave,
}
"""A cache's methods that reorder rows, with the new order as a function of the row numbers (B,) and
the method's argument.
"""
