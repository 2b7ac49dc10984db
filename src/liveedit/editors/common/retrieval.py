"""Shared code of retrieval-based editors (SERAC, RECIPE), which match a query with one edit.

RetrievalPatch holds the edits, RetrievalEditor makes them and prepares training, and the functions
say which query belongs to which edit.

Shapes: B queries (or examples), E edits, R rows of a training batch, n tokens of a text, T tokens
of a row, D width of the text decoder.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from liveedit.editors.base import TrainableEditor
from liveedit.editors.common.attention import with_image
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankEditor, BankPatch
from liveedit.editors.common.examples import Example, RowName, chunks
from liveedit.editors.common.hard_negatives import NEVER
from liveedit.models.batch import IGNORED, Batch, FiredEdit, HiddenBatch, Scores, Spans
from liveedit.types import Query

__all__ = [
    "NO_TOKEN",
    "Match",
    "RetrievalEditor",
    "RetrievalExample",
    "RetrievalPatch",
    "Scope",
    "best_match",
    "compatible",
    "with_answers",
]

NO_TOKEN = -1
"""Padding of token ids beyond a text's end."""

Scope = Literal["both", "text"]
"""The evidence for matching a query with an edit: image and text, or text alone, as published."""


@dataclass(slots=True)
class RetrievalExample(Example):
    """A training case.

    Arguments:
        text: Tokens (n,) of the edit's prompt and answer.
        answer: Those of the answer alone (m,), the last ones of ``text``.
        inputs: By kind, the decoder's input (1, T, D) for a query whose answer the method changes.
    """

    text: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    answer: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    inputs: dict[str, HiddenBatch] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """The edits that some queries belong to.

    Arguments:
        rows: The queries that belong to an edit, by row.
        edits: The edit of each of them.
        fired: For every row the edit that fires, if one does, with its score.
    """

    rows: list[int]
    edits: list[int]
    fired: list[list[FiredEdit]]


class RetrievalPatch(BankPatch):
    """A bank of edits on the networks' device; the weight of a firing is its score.

    ``bank`` holds ``pictured`` (E,), whether an edit has an image.
    """

    def __init__(self, editor: "RetrievalEditor", bank: Bank) -> None:
        super().__init__(editor, bank.to(editor.device))

    def match(self, batch: Batch, score: Tensor, least: float) -> Match:
        """The edits in force that score above ``least``, given all scores (B, E).

        They are noted in ``batch``. By image and text, a query without image matches no edit with
        one, nor vice versa.
        """
        if self.editor.config.scope == "both":
            score = score.masked_fill(~compatible(batch.spans, self.bank["pictured"]), -torch.inf)
        found = best_match(score.masked_fill(~self.in_force(score > least), NEVER), least)
        batch.fired[self] = found.fired
        if batch.wants_scores:
            threshold = torch.full_like(score, least)
            batch.scores[self] = Scores.of_rows(
                score - least, question=score, question_threshold=threshold
            )
        return found


M = TypeVar("M", bound=RetrievalPatch)
X = TypeVar("X", bound=RetrievalExample)


class RetrievalEditor(TrainableEditor[M, X], BankEditor[M]):
    """A trainable editor that keeps :meth:`entries` of each edit.

    Its config has ``generality``, ``locality`` and ``fresh``, the share of training examples whose
    answer is replaced by random tokens, so that the network learns to read answers instead of
    memorising them.
    """

    example_class: ClassVar[type[Any]] = RetrievalExample

    @abstractmethod
    def entries(self, queries: Sequence[Query]) -> dict[str, Tensor]:
        """The tensors that are kept of each edit, by name, (B, …)."""

    @abstractmethod
    def no_entries(self) -> dict[str, Tensor]:
        """The tensors of :meth:`entries` without a row."""

    @torch.no_grad()
    def extended(self, patch: M, queries: Sequence[Query]) -> M:
        """See :meth:`BankEditor.extended`."""
        bank = patch.bank
        for chunk in chunks(queries):
            bank = bank.append(self.entries(chunk))
        made: M = self.patch_class(self, bank)
        return made

    def empty(self) -> M:
        """A patch without edits."""
        made: M = self.patch_class(self, Bank(self.no_entries()))
        return made

    def words(self, tokens: Tensor) -> Tensor:
        """The VLM's word embeddings (…, D) of token ids (…), in float32.

        For a negative id they are those of an arbitrary token.
        """
        vectors: Tensor = self.vlm.embedding(tokens.clamp(min=0).to(self.vlm.device))
        return vectors.float().to(self.device)

    # Training

    def answering(
        self,
        examples: Sequence[X],
        names: Sequence[RowName],
        generator: torch.Generator,
    ) -> "AnsweredRows":
        """The rows ``names`` and the texts of the edits, some with replaced answers.

        For a share ``config.fresh`` of the examples all answer tokens but the end of text are
        replaced by random ones, in the edit and in every row that asks for its answer.
        """
        end = next(iter(self.vlm.stops), IGNORED)
        fresh = self.fresh_answers(examples, names, generator)
        texts = pad_sequence([example.text for example in examples], True, NO_TOKEN)
        edit_labels = with_answers(_answer_labels(examples), fresh, end)
        rows = HiddenBatch.stack([examples[j].inputs[kind] for kind, j in names])
        fresh_in_rows = fresh[[j for _, j in names]]
        staying = torch.tensor([self.must_stay(kind) for kind, _ in names])
        fresh_in_rows = fresh_in_rows.masked_fill(staying[:, None], IGNORED)
        labels = with_answers(rows.labels, fresh_in_rows, end)
        change = (self.words(labels) - self.words(rows.labels)).cpu()
        change = change * (labels != rows.labels)[..., None]
        rows = replace(rows, hidden=rows.hidden + change, labels=labels)
        edit_texts = torch.where(edit_labels >= 0, edit_labels, texts)
        return AnsweredRows(
            rows.to(self.device), edit_texts.to(self.device), edit_labels.to(self.device)
        )

    def fresh_answers(
        self,
        examples: Sequence[X],
        names: Sequence[RowName],
        generator: torch.Generator,
    ) -> Tensor:
        """Random tokens (B, m) for the answers of some examples, IGNORED for the others.

        An example keeps its answer if one of its rows asks for another answer than the edit's.
        """
        most = max(len(example.answer) for example in examples)
        drawn = torch.randint(len(self.plain_tokens), (len(examples), most), generator=generator)
        chosen = torch.rand(len(examples), generator=generator) < self.config.fresh
        for kind, j in names:
            if self.must_stay(kind):
                continue
            if not torch.equal(_answer(examples[j].inputs[kind]), examples[j].answer):
                chosen[j] = False
        return self.plain_tokens[drawn].masked_fill(~chosen[:, None], IGNORED)

    @cached_property
    def plain_tokens(self) -> Tensor:
        """The ids of all tokens but the special ones."""
        special = set(self.vlm.tokenizer.all_special_ids)
        plain = [token for token in range(len(self.vlm.tokenizer)) if token not in special]
        return torch.tensor(plain)


@dataclass(frozen=True, slots=True)
class AnsweredRows:
    """The rows of a training batch with the answers that they are trained on.

    Arguments:
        rows: The rows, with their labels.
        texts: Tokens (B, n) of the edits, prompt and answer.
        answers: The same with the answers alone; other tokens are negative.
    """

    rows: HiddenBatch
    texts: Tensor
    answers: Tensor


def _answer(row: HiddenBatch) -> Tensor:
    """The answer's tokens (m,) of a batch of one."""
    return row.labels[row.labels >= 0]


def _answer_labels(examples: Sequence[RetrievalExample]) -> Tensor:
    """The edits' texts (B, n) as labels: the tokens of the answer, IGNORED for those before."""
    labels = []
    for example in examples:
        before = len(example.text) - len(example.answer)
        labels.append(F.pad(example.answer, (before, 0), value=IGNORED))
    return pad_sequence(labels, True, IGNORED)


def with_answers(labels: Tensor, answers: Tensor, end: int) -> Tensor:
    """``labels`` (R, T) with other answers: the k-th answer token becomes ``answers`` (R, m) at k.

    A label stays where ``answers`` has no token, and where it is the end of text ``end``.
    """
    content = (labels >= 0) & (labels != end)
    position = (content.cumsum(1) - 1).clamp(0, answers.shape[1] - 1)
    new = answers.gather(1, position)
    return torch.where(content & (new >= 0), new, labels)


def compatible(spans: Sequence[Spans], edits_with_image: Tensor) -> Tensor:
    """The queries and edits that can belong together, (B, E): both with an image or both without.

    ``edits_with_image`` is (E,).
    """
    return with_image(spans, edits_with_image.device)[:, None] == edits_with_image


def best_match(score: Tensor, least: float) -> Match:
    """The edit with the highest ``score`` (B, E) of each row, where that is above ``least``."""
    if not score.shape[1]:
        return Match([], [], [[] for _ in score])
    values, best = score.max(1)
    rows = list[int]()
    edits = list[int]()
    fired = list[list[FiredEdit]]()
    for row, (edit, value) in enumerate(zip(best.tolist(), values.tolist(), strict=True)):
        fires = value > least
        fired.append([(edit, value)] if fires else [])
        if fires:
            rows.append(row)
            edits.append(edit)
    return Match(rows, edits, fired)
