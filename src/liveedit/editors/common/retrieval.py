"""What methods share that keep a memory of edits and look up, for each query, the one edit that it
belongs to.

MemoryPatch keeps its bank where the networks are, MemoryEditor goes through queries and cases in
chunks, and the functions say which query belongs to which edit.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from liveedit.editors.base import Editor, Example, TrainableEditor
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankPatch, PoolEditor
from liveedit.editors.liveedit.sampling import EDIT, RowName
from liveedit.models.batch import IGNORED, Firing, HiddenBatch, Spans
from liveedit.types import Case, Query

__all__ = [
    "NEVER",
    "NO_TOKEN",
    "Asked",
    "Memory",
    "MemoryEditor",
    "MemoryPatch",
    "Scope",
    "belonging",
    "best",
    "kindred",
    "pictured",
    "renewed",
]

NEVER = -100.0
"""The score of a query and an edit that cannot belong together. At −∞ a loss would be no number."""

NO_TOKEN = -1
"""What fills up token ids beyond a text's end."""

Scope = Literal["both", "text"]
"""What decides whether a query belongs to an edit: image and text, or the text alone, as published.
"""

CHUNK = 32
"""Queries that go through the VLM together."""


@dataclass(slots=True)
class Memory(Example):
    """A case of training. ``text`` (n,) are the tokens of the edit's prompt and answer, ``answer``
    (m,) its last ones.

    ``inputs`` hold by kind the embeddings of a query that the method writes an answer to.
    """

    text: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    answer: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    inputs: dict[str, HiddenBatch] = field(default_factory=dict)


Asked = tuple[Memory, str, Query]
"""A query of training: the example that it is part of, its kind, and the query itself."""


class MemoryPatch(BankPatch):
    """A memory of edits. Of those that take part, the weight is their score."""

    def __init__(self, editor: Editor, bank: Bank) -> None:
        assert isinstance(editor, MemoryEditor)
        super().__init__(editor, bank.to(editor.device))

    def found(self, score: Tensor, least: float) -> tuple[list[int], list[int], list[list[Firing]]]:
        """Of ``score`` (B, E) the rows that an edit answers, which scores above ``least``, that
        edit, and who fired.
        """
        return best(score.masked_fill(~self.taking_part(score > least), NEVER), least)


class MemoryEditor(TrainableEditor, PoolEditor):
    """An editor with a row of ``entries`` for each edit. Its config has ``generality``,
    ``locality`` and ``fresh``.
    """

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
    def extended(self, held: BankPatch, queries: Sequence[Query]) -> BankPatch:
        """See :meth:`PoolEditor.extended`."""
        bank = held.bank
        for start in range(0, len(queries), CHUNK):
            bank = bank.append(self.entries(queries[start : start + CHUNK]))
        return self.patch_class(self, bank)

    def empty(self) -> BankPatch:
        """A patch without edits."""
        return self.patch_class(self, Bank(self.nothing()))

    @torch.no_grad()
    def prepare(self, cases: Sequence[Case]) -> list[Example]:
        """See :meth:`TrainableEditor.prepare`. Of several probes of a metric the first counts."""
        self.begin([], None)
        examples: list[Example] = [self.example() for _ in cases]
        kinds = {*self.config.generality, *self.config.locality}
        asked: list[Asked] = []
        for example, case in zip(examples, cases, strict=True):
            probes = {
                probe.metric: probe.query
                for probe in reversed(case.probes)
                if probe.metric in kinds
            }
            assert isinstance(example, Memory)
            queries = {EDIT: case.edits[0]} | probes
            example.facts |= {kind: query.fact for kind, query in queries.items()}
            asked += [(example, kind, query) for kind, query in queries.items()]
        for start in range(0, len(asked), CHUNK):
            self.observe(asked[start : start + CHUNK])
        return examples

    def example(self) -> Memory:
        """An example without queries."""
        return Memory()

    def names(self, examples: Sequence[Example], *kinds: str) -> list[RowName]:
        """The rows of some kinds that the examples have."""
        return [
            (kind, j)
            for kind in kinds
            for j, example in enumerate(examples)
            if kind in example.facts
        ]

    def words(self, tokens: Tensor) -> Tensor:
        """The VLM's word embeddings (…, D) of token ids (…), in float32; of anything for a negative
        one.
        """
        vectors: Tensor = self.vlm.embedding(tokens.clamp(min=0).to(self.vlm.device))
        return vectors.float().to(self.device)

    def written(
        self, examples: Sequence[Memory], names: Sequence[RowName], dice: torch.Generator
    ) -> "Written":
        """The rows ``names`` and the texts of the edits, with fresh answers for a share
        ``config.fresh`` of them.

        A fresh answer has tokens drawn at random for all of its own but the end of text, in the
        edit and in every row that asks for it: what writes has to read the answer, for it cannot
        have learnt it.
        """
        end, fresh = next(iter(self.vlm.stops), IGNORED), self.fresh_answers(examples, names, dice)
        text = pad_sequence([example.text for example in examples], True, NO_TOKEN)
        answers = [
            F.pad(some.answer, (len(some.text) - len(some.answer), 0), value=IGNORED)
            for some in examples
        ]
        said = renewed(pad_sequence(answers, True, IGNORED), fresh, end)
        rows = HiddenBatch.stack([examples[j].inputs[kind] for kind, j in names])
        asks = torch.tensor([kind not in self.config.locality for kind, _ in names])
        asked = fresh[[j for _, j in names]].masked_fill(~asks[:, None], IGNORED)
        labels = renewed(rows.labels, asked, end)
        change = (self.words(labels) - self.words(rows.labels)).cpu() * (labels != rows.labels)[
            ..., None
        ]
        rows = replace(rows, hidden=rows.hidden + change, labels=labels).to(self.device)
        return Written(
            rows, torch.where(said >= 0, said, text).to(self.device), said.to(self.device)
        )

    def fresh_answers(
        self, examples: Sequence[Memory], names: Sequence[RowName], dice: torch.Generator
    ) -> Tensor:
        """Tokens (B, n) drawn for the answers of some examples, IGNORED for the others.

        An example is left alone if a row asks it for anything but the edit's own answer.
        """
        others = {
            j
            for kind, j in names
            if kind not in self.config.locality
            and not torch.equal(answer(examples[j].inputs[kind]), examples[j].answer)
        }
        most = max(len(example.answer) for example in examples)
        fresh = self.plain_tokens[
            torch.randint(len(self.plain_tokens), (len(examples), most), generator=dice)
        ]
        chosen = torch.rand(len(examples), generator=dice) < self.config.fresh
        chosen[list(others)] = False
        return fresh.masked_fill(~chosen[:, None], IGNORED)

    @cached_property
    def plain_tokens(self) -> Tensor:
        """All tokens but the special ones."""
        special = set(self.vlm.tokenizer.all_special_ids)
        return torch.tensor(
            [token for token in range(len(self.vlm.tokenizer)) if token not in special]
        )


@dataclass(frozen=True, slots=True)
class Written:
    """What a batch of training writes: its ``rows``, the edits' ``text`` (B, n), and in ``said``
    its answers alone.
    """

    rows: HiddenBatch
    text: Tensor
    said: Tensor


def answer(row: HiddenBatch) -> Tensor:
    """The answer's tokens (m,) of a batch of one."""
    return row.labels[row.labels >= 0]


def renewed(labels: Tensor, fresh: Tensor, end: int) -> Tensor:
    """``labels`` (R, T) whose k-th answer token is ``fresh`` (R, n) at k, where that is a token;
    ``end`` stays.
    """
    content = (labels >= 0) & (labels != end)
    new = fresh.gather(1, (content.cumsum(1) - 1).clamp(0, fresh.shape[1] - 1))
    return torch.where(content & (new >= 0), new, labels)


def belonging(
    examples: Sequence[Example], names: Sequence[RowName], locality: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """For each row the edit (R,) that it belongs to, -1 for none, and its rivals (R, B) among the
    examples' edits.

    A rival edits the very fact that a row asks for without being its own edit, so it is neither
    right nor wrong.
    """
    own = torch.tensor([-1 if kind in locality else j for kind, j in names])
    facts = [examples[j].facts[kind] for kind, j in names]
    same = torch.tensor(
        [[bool(fact) and fact == example.facts[EDIT] for example in examples] for fact in facts]
    )
    within = torch.tensor([j for _, j in names])[:, None] == torch.arange(len(examples))
    return own, same & ~within


def pictured(spans: Sequence[Spans], device: torch.device) -> Tensor:
    """Whether each row has an image, (B,)."""
    return torch.tensor([span.image[0] < span.image[1] for span in spans], device=device)


def kindred(spans: Sequence[Spans], edits: Tensor) -> Tensor:
    """Which queries and edits can belong together, (B, E): both with an image, or both without, as
    ``edits`` (E,).
    """
    return pictured(spans, edits.device)[:, None] == edits


def best(score: Tensor, least: float) -> tuple[list[int], list[int], list[list[tuple[int, float]]]]:
    """Of ``score`` (B, E) the rows whose best edit scores above ``least``, that edit, and for all
    rows what fired.
    """
    if not score.shape[1]:
        return [], [], [[] for _ in score]
    value, edit = score.max(1)
    found = list(zip(edit.tolist(), value.tolist(), strict=True))
    rows = [row for row, (_, reached) in enumerate(found) if reached > least]
    return (
        rows,
        [found[row][0] for row in rows],
        [[pair] if pair[1] > least else [] for pair in found],
    )
