"""What methods share that keep a memory of edits and look up, for each query, the one edit that it belongs to.

MemoryPatch remembers which edit answered, MemoryEditor goes through queries and cases in chunks, and the functions say
which query belongs to which edit.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from liveedit.editors.bank import Bank
from liveedit.editors.base import Editor, Example, TrainableEditor
from liveedit.editors.draws import EDIT, RowName
from liveedit.editors.pool import BankPatch, PoolEditor
from liveedit.models.batch import Spans
from liveedit.models.patch import Patch
from liveedit.types import Case, Query

__all__ = ["NEVER", "Asked", "MemoryEditor", "MemoryPatch", "Scope", "belonging", "best", "kindred", "pictured"]

NEVER = -100.0
"""The score of a query and an edit that cannot belong together. At −∞ a loss would be no number."""

Scope = Literal["both", "text"]
"""What decides whether a query belongs to an edit: image and text, or the text alone, as published."""

Asked = tuple[Example, str, Query]
"""A query of training: the example that it is part of, its kind, and the query itself."""

CHUNK = 32
"""Queries that go through the VLM together."""


class MemoryPatch(BankPatch):
    """A memory of edits; ``last`` says for each row of the batch seen last which edit answered, and with what score."""

    def __init__(self, editor: Editor, bank: Bank) -> None:
        assert isinstance(editor, MemoryEditor)
        super().__init__(editor, bank.to(editor.device))
        self.last: list[list[tuple[int, float]]] = []

    def fired(self) -> list[list[tuple[int, float]]]:
        """See :meth:`Patch.fired`."""
        return self.last


class MemoryEditor(TrainableEditor, PoolEditor):
    """An editor with a row of ``entries`` for each edit. Its config has ``generality`` and ``locality``."""

    @abstractmethod
    def entries(self, queries: Sequence[Query]) -> dict[str, Tensor]:
        """What is kept of each edit, by name, (B, …)."""

    @abstractmethod
    def nothing(self) -> dict[str, Tensor]:
        """What is kept of no edit: the tensors of :meth:`entries` without a row."""

    @abstractmethod
    def observe(self, asked: Sequence[Asked]) -> None:
        """Put what training reads of these queries into their examples."""

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.networks().parameters()).device

    @torch.no_grad()
    def edit(self, queries: Sequence[Query], patch: Patch | None = None) -> MemoryPatch:
        """See :meth:`Editor.edit`."""
        self.begin(queries, patch)
        assert patch is None or isinstance(patch, MemoryPatch)
        bank = Bank(self.nothing()) if patch is None else patch.bank
        for start in range(0, len(queries), CHUNK):
            bank = bank.append(self.entries(queries[start : start + CHUNK]))
        made = self.patch_class(self, bank)
        assert isinstance(made, MemoryPatch)
        return made

    @torch.no_grad()
    def prepare(self, cases: Sequence[Case]) -> list[Example]:
        """See :meth:`TrainableEditor.prepare`. Of several probes of a metric the first counts."""
        self.begin([], None)
        examples = [self.example() for _ in cases]
        kinds = {*self.config.generality, *self.config.locality}
        asked: list[Asked] = []
        for example, case in zip(examples, cases, strict=True):
            probes = {probe.metric: probe.query for probe in reversed(case.probes) if probe.metric in kinds}
            queries = {EDIT: case.edits[0]} | probes
            example.facts |= {kind: query.fact for kind, query in queries.items()}
            asked += [(example, kind, query) for kind, query in queries.items()]
        for start in range(0, len(asked), CHUNK):
            self.observe(asked[start : start + CHUNK])
        return examples

    def example(self) -> Example:
        """An example without queries."""
        return Example()

    def names(self, examples: Sequence[Example], *kinds: str) -> list[RowName]:
        """The rows of some kinds that the examples have."""
        return [(kind, j) for kind in kinds for j, example in enumerate(examples) if kind in example.facts]


def belonging(examples: Sequence[Example], names: Sequence[RowName], locality: Sequence[str]) -> tuple[Tensor, Tensor]:
    """For each row the edit (R,) that it belongs to, -1 for none, and its rivals (R, B) among the examples' edits.

    A rival edits the very fact that a row asks for without being its own edit, so it is neither right nor wrong.
    """
    own = torch.tensor([-1 if kind in locality else j for kind, j in names])
    facts = [examples[j].facts[kind] for kind, j in names]
    same = torch.tensor([[bool(fact) and fact == example.facts[EDIT] for example in examples] for fact in facts])
    within = torch.tensor([j for _, j in names])[:, None] == torch.arange(len(examples))
    return own, same & ~within


def pictured(spans: Sequence[Spans], device: torch.device) -> Tensor:
    """Whether each row has an image, (B,)."""
    return torch.tensor([span.image[0] < span.image[1] for span in spans], device=device)


def kindred(spans: Sequence[Spans], edits: Tensor) -> Tensor:
    """Which queries and edits can belong together, (B, E): both with an image, or both without, as ``edits`` (E,)."""
    return pictured(spans, edits.device)[:, None] == edits


def best(score: Tensor, least: float) -> tuple[list[int], list[int], list[list[tuple[int, float]]]]:
    """Of ``score`` (B, E) the rows whose best edit scores above ``least``, that edit, and for all rows what fired."""
    if not score.shape[1]:
        return [], [], [[] for _ in score]
    value, edit = score.max(1)
    found = list(zip(edit.tolist(), value.tolist(), strict=True))
    rows = [row for row, (_, reached) in enumerate(found) if reached > least]
    return rows, [found[row][0] for row in rows], [[pair] if pair[1] > least else [] for pair in found]
