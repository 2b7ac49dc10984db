"""Training examples: the hidden states that a trainable editor reads of each case, computed once.

A case has several queries, each of a *kind*: the edit itself (:data:`EDIT`) and one probe of each
metric that the editor is trained on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from liveedit.models.batch import HiddenBatch
from liveedit.types import Case, Query

__all__ = [
    "CHUNK",
    "EDIT",
    "Example",
    "RowName",
    "TrainingQuery",
    "chunks",
    "detached_row",
    "first_probes",
    "row_names",
    "same_fact",
]

CHUNK = 32
"""Queries that go through the VLM together."""

EDIT = "reliability"
"""The kind of the queries that are the edits themselves."""

RowName = tuple[str, int]
"""A row of a training batch: its kind, and the index of the example that it belongs to."""

Item = TypeVar("Item")


@dataclass(slots=True)
class Example:
    """A case as training reads it, on the CPU in float32 and without padding.

    Arguments:
        rows: By kind, the hidden states of the query at the layer that the editor reads, as a
            batch of one.
        facts: By kind, the query's :attr:`Query.fact`.
        base: For the kinds that must not change, the unedited log-probabilities (n, V) at the
            positions that predict the n answer tokens.
        description: The edit in words, for methods that read it.
    """

    rows: dict[str, HiddenBatch] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    base: dict[str, Tensor] = field(default_factory=dict)
    description: str = ""


X = TypeVar("X", bound=Example)


@dataclass(frozen=True, slots=True)
class TrainingQuery(Generic[X]):
    """A query of a training case, its kind, and the example that it belongs to."""

    example: X
    kind: str
    query: Query


def first_probes(case: Case, kinds: Sequence[str]) -> dict[str, Query]:
    """The case's first probe of each of the ``kinds``, in the reverse order of its probes."""
    return {probe.metric: probe.query for probe in reversed(case.probes) if probe.metric in kinds}


def detached_row(row: HiddenBatch) -> HiddenBatch:
    """A copy of a batch of one in float32 on the CPU, which shares no memory with the batch."""
    positions = None if row.position_ids is None else row.position_ids.cpu().clone()
    return HiddenBatch(
        hidden=row.hidden.float().cpu().clone(),
        attention_mask=row.attention_mask.cpu().clone(),
        labels=row.labels.cpu().clone(),
        spans=row.spans,
        position_ids=positions,
        extra={name: value.cpu().clone() for name, value in row.extra.items()},
    )


def chunks(items: Sequence[Item], size: int = CHUNK) -> Iterator[Sequence[Item]]:
    """Consecutive slices of at most ``size`` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def row_names(examples: Sequence[Example], kinds: Sequence[str]) -> list[RowName]:
    """The rows of a batch of examples, those of one kind together, in the order of ``kinds``."""
    names = list[RowName]()
    for kind in kinds:
        names += [(kind, index) for index, example in enumerate(examples) if kind in example.facts]
    return names


def same_fact(examples: Sequence[Example], names: Sequence[RowName]) -> Tensor:
    """The edits of *other* examples that edit the same fact that a row asks for, boolean (R, B).

    ``names`` are the R rows. Such an edit is neither the row's own nor an unrelated one.
    """
    known = {"": 0}
    asked = [known.setdefault(examples[j].facts[kind], len(known)) for kind, j in names]
    edited = [known.setdefault(example.facts[EDIT], len(known)) for example in examples]
    fact = torch.tensor(asked)[:, None]
    others = torch.tensor([j for _, j in names])[:, None] != torch.arange(len(examples))
    return (fact > 0) & (fact == torch.tensor(edited)) & others
