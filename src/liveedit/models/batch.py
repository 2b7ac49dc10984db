"""Batch: encoded queries. Spans: their parts. HiddenBatch: a decoder layer's output for them.

Shapes: B rows, T tokens (padding included), D width of the text decoder, V size of the vocabulary.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "IGNORED",
    "Batch",
    "FiredEdit",
    "HiddenBatch",
    "PaddingSide",
    "Scores",
    "Spans",
    "common_prefix",
    "find_spans",
    "going_on",
    "pad_rows",
    "predicting",
]

PaddingSide = Literal["left", "right"]

FiredEdit = tuple[int, float]
"""An edit that fired: its number in the patch, and its weight."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How near one query came to each of the E edits of a patch.

    A score or threshold is NaN where the method has none for this query and edit.

    Arguments:
        edits: The edits that the scores are of, (n,): all, or of many the nearest.
        above: How far each edit is above what it needs to fire, (n,); below 0 if it does not fire,
            and -inf for an edit that is never about such a query.
        image: Its score by the image, (n,).
        image_threshold: What that score has to exceed, given the other score, (n,).
        question: Its score by the question, or by question and image together, (n,).
        question_threshold: What that score has to exceed, (n,).
    """

    edits: Tensor
    above: Tensor
    image: Tensor | None = None
    image_threshold: Tensor | None = None
    question: Tensor | None = None
    question_threshold: Tensor | None = None

    @classmethod
    def of_rows(cls, above: Tensor, edits: Tensor | None = None, **parts: Tensor) -> "list[Scores]":
        """The scores of each row, given those of all (B, n); ``parts`` may be broadcast to that.

        They are of ``edits`` (n,), by default of all.
        """
        if edits is None:
            edits = torch.arange(above.shape[1], device=above.device)
        spread = {name: part.expand_as(above) for name, part in parts.items()}
        return [
            cls(edits, above[row], **{name: part[row] for name, part in spread.items()})
            for row in range(len(above))
        ]


IGNORED = -100
"""Label of a token that is not part of the answer."""


@dataclass(frozen=True, slots=True)
class Spans:
    """The parts of one row, as half-open ranges of tokens, one after the other without a gap.

    ``before`` holds the tokens before the image (BOS, a system prompt), ``image`` the image tokens,
    ``prompt`` the text after the image including the last prompt token, ``answer`` the answer.
    Padding belongs to none of them. Of several images, ``image`` is the one that the query is
    about, or ranges from the first to the last if it is about all; the others are in ``before`` and
    ``prompt``. A text-only row has empty ``before`` and ``image``, and its whole text, BOS
    included, in ``prompt``.
    """

    before: tuple[int, int]
    image: tuple[int, int]
    prompt: tuple[int, int]
    answer: tuple[int, int]

    @property
    def start(self) -> int:
        """The row's first token that is not padding."""
        return self.before[0]

    @property
    def stop(self) -> int:
        """One past the row's last token that is not padding."""
        return self.answer[1]

    @property
    def has_image(self) -> bool:
        """Whether the row has image tokens."""
        return self.image[0] < self.image[1]

    def shift(self, offset: int) -> "Spans":
        """The same parts, moved to the right by ``offset`` tokens."""
        parts = (self.before, self.image, self.prompt, self.answer)
        return Spans(*((start + offset, stop + offset) for start, stop in parts))


def find_spans(
    image: Tensor, attention_mask: Tensor, answers: Sequence[int] | None = None
) -> list[Spans]:
    """The spans of each row.

    ``image`` (B, T) marks the image tokens, ``attention_mask`` (B, T) the tokens that are not
    padding. ``answers`` gives the number of answer tokens at the end of each row; without it every
    token after the image is prompt.
    """
    lengths = [0] * len(image) if answers is None else answers
    rows = zip(image.bool().tolist(), attention_mask.bool().tolist(), lengths, strict=True)
    return [row_spans(*row) for row in rows]


def row_spans(image: list[bool], real: list[bool], length: int) -> Spans:
    """The spans of a row with ``length`` answer tokens, given its image and its unpadded tokens."""
    start, stop = bounds(real)
    first, last = bounds(image) if any(image) else (start, start)
    end = stop - length
    return Spans(before=(start, first), image=(first, last), prompt=(last, end), answer=(end, stop))


def bounds(marks: list[bool]) -> tuple[int, int]:
    """The half-open range from the first to the last mark, (0, 0) if there is none."""
    if not any(marks):
        return 0, 0
    return marks.index(True), len(marks) - marks[::-1].index(True)


def pad_rows(rows: Sequence[Sequence[int]], filler: int, side: PaddingSide) -> Tensor:
    """The rows as one tensor (B, T) of type long, filled up with ``filler`` on ``side``.

    T is the length of the longest row.
    """
    length = max(len(row) for row in rows)
    padded = []
    for row in rows:
        gap = [filler] * (length - len(row))
        padded.append([*gap, *row] if side == "left" else [*row, *gap])
    return torch.tensor(padded, dtype=torch.long)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """The number of tokens that both begin with."""
    for at, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return at
    return min(len(first), len(second))


def going_on(kept: Sequence[int], rows: Tensor) -> tuple[list[int], list[int]]:
    """Row numbers after rows are reordered, for an object that has kept some of the rows.

    New row i continues old row ``rows[i]``, and ``kept`` are the old rows of the object. Returns
    the new rows that continue one of these, and for each of them the place of that row in ``kept``.
    """
    place = {row: number for number, row in enumerate(kept)}
    found = [(new, place[old]) for new, old in enumerate(rows.tolist()) if old in place]
    return [new for new, _ in found], [old for _, old in found]


def per_token(name: str) -> bool:
    """Whether an input of this name holds one value for each token (B, T)."""
    if name in ("input_ids", "attention_mask"):
        return True
    return name.endswith(("token_type_ids", "position_mask"))


def predicting(labels: Tensor) -> Tensor:
    """The positions (B, T) that predict an answer token: each is one left of a label (B, T) that is
    not ignored.
    """
    return F.pad(labels[:, 1:] != IGNORED, (0, 1))


class AnswerRows:
    """Rows with an answer each: their prompt tokens, and those that predict the answer."""

    __slots__ = ()
    labels: Tensor
    spans: list[Spans]

    def answer_positions(self) -> Tensor:
        """The positions, boolean (B, T), that predict the answer tokens: one left of each."""
        return predicting(self.labels)

    def answer_tokens(self) -> Tensor:
        """The answers' token ids (N,), row after row: the labels of :meth:`answer_positions`."""
        return self.labels.roll(-1, 1)[self.answer_positions()]

    def answer_rows(self) -> Tensor:
        """The row (N,) of each of :meth:`answer_tokens`."""
        return self.answer_positions().nonzero()[:, 0]

    def prompt_tokens(self) -> Tensor:
        """The tokens before the answer, boolean (B, T): image included, padding excluded."""
        columns = torch.arange(self.labels.shape[1], device=self.labels.device)
        starts = columns.new_tensor([span.start for span in self.spans])[:, None]
        stops = columns.new_tensor([span.prompt[1] for span in self.spans])[:, None]
        return (starts <= columns) & (columns < stops)

    def last_prompt_tokens(self) -> Tensor:
        """The column (B,) of each row's last prompt token, which predicts the answer's first."""
        last = [span.prompt[1] - 1 for span in self.spans]
        return torch.tensor(last, device=self.labels.device)


@dataclass(slots=True)
class Batch(AnswerRows):
    """Encoded queries, ready for the model.

    ``inputs`` are the arguments of the Hugging Face model, opaque but for ``input_ids`` and
    ``attention_mask``, both (B, T). ``labels`` (B, T) equal ``input_ids`` on the answer tokens and
    are -100 elsewhere; they are not shifted.

    ``position_ids`` (…, B, T) and ``extra`` are inputs of the text decoder for every token, which
    ``VLM.hidden`` fills in: the positions, ``None`` where the decoder counts them itself, and all
    others (B, T, …) by name. ``prefix`` holds, by the row, vectors (n, D) that a patch has put
    before the text: the first n tokens of that row's prompt are fillers, whose embeddings they
    replace. ``fired`` holds, by the patch, the edits that fired in each row, and ``scores`` how
    near each row came to the edits, for methods that have scores, where ``wants_scores`` asks for
    them; both are filled in while the batch is encoded and while it goes through the model.
    ``alone`` holds the same questions without
    the chats before them, ``None`` where no row has one.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    spans: list[Spans]
    position_ids: Tensor | None = None
    prefix: dict[int, Tensor] = field(default_factory=dict)
    extra: dict[str, Tensor] = field(default_factory=dict)
    fired: dict[Hashable, list[list[FiredEdit]]] = field(default_factory=dict)
    scores: dict[Hashable, list[Scores]] = field(default_factory=dict)
    alone: "Batch | None" = None
    wants_scores: bool = False

    def __len__(self) -> int:
        return len(self.spans)

    def fired_by(self, patch: Hashable) -> list[list[FiredEdit]]:
        """The edits of ``patch`` that fired in each row, with their weights, the heaviest first."""
        return self.fired.get(patch) or [[] for _ in self.spans]

    def scores_of(self, patch: Hashable) -> list[Scores] | list[None]:
        """The scores of ``patch`` for each row; ``None`` where it has none."""
        return self.scores.get(patch) or [None for _ in self.spans]

    def extended(self, input_ids: Tensor) -> "Batch":
        """The batch followed by generated tokens ``input_ids`` (B, T'), which are in no span."""
        gap = (0, input_ids.shape[1])
        inputs = dict(self.inputs)
        for name, value in self.inputs.items():
            if per_token(name):
                inputs[name] = F.pad(value, gap)
        inputs["input_ids"] = torch.cat([self.inputs["input_ids"], input_ids], 1)
        inputs["attention_mask"] = F.pad(self.inputs["attention_mask"], gap, value=1)
        return replace(self, inputs=inputs, labels=F.pad(self.labels, gap, value=IGNORED))

    def until(self, length: int) -> "Batch":
        """The batch cut to its first ``length`` tokens; the spans stay as they are."""
        inputs = dict(self.inputs)
        for name, value in self.inputs.items():
            if per_token(name):
                inputs[name] = value[:, :length]
        return replace(self, inputs=inputs, labels=self.labels[:, :length])

    def pick(self, rows: Tensor) -> "Batch":
        """The rows ``rows`` (B',) of the batch, in that order.

        Inputs that are not per token, such as pixels, stay those of all rows.
        """
        numbers = rows.tolist()
        rows = rows.to(self.labels.device)
        inputs = dict(self.inputs)
        for name, value in self.inputs.items():
            if per_token(name):
                inputs[name] = value[rows]
        prefix = {new: self.prefix[old] for new, old in enumerate(numbers) if old in self.prefix}
        fired: dict[Hashable, list[list[FiredEdit]]] = {}
        for patch, firings in self.fired.items():
            fired[patch] = [firings[row] for row in numbers]
        scores = {patch: [rows[row] for row in numbers] for patch, rows in self.scores.items()}
        positions = self.position_ids
        return Batch(
            inputs=inputs,
            labels=self.labels[rows],
            spans=[self.spans[row] for row in numbers],
            position_ids=None if positions is None else positions[..., rows, :],
            prefix=prefix,
            extra={name: value[rows] for name, value in self.extra.items()},
            fired=fired,
            scores=scores,
            wants_scores=self.wants_scores,
        )

    def prefixed(self, prefix: dict[int, Tensor], filler: int) -> "tuple[Batch, Tensor]":
        """The batch with vectors before the text of its rows, and the new positions (B, T) of its
        own tokens.

        ``prefix`` holds the vectors (n, D) by row, and the token ``filler`` stands in for each.
        Rows with fewer vectors are padded: on the left if all rows end together, so that generation
        can continue after them, otherwise on the right.
        """
        B, T = self.labels.shape
        device = self.labels.device
        most = max(len(vectors) for vectors in prefix.values())
        left = all(span.stop == T for span in self.spans)
        count = torch.tensor([len(prefix.get(row, ())) for row in range(B)])[:, None]
        first = torch.tensor([span.prompt[0] for span in self.spans])[:, None]
        padding = (most - count) * left
        places = torch.arange(T) + padding + count * (torch.arange(T) >= first)
        places = places.to(device)
        offsets = torch.arange(T + most) - first - padding
        fillers = ((offsets >= 0) & (offsets < count)).to(device)

        def spread(value: Tensor, padded: int) -> Tensor:
            return value.new_full((B, T + most), padded).scatter(1, places, value)

        inputs = dict(self.inputs)
        for name, value in self.inputs.items():
            if per_token(name):
                inputs[name] = spread(value, 0)
        inputs["input_ids"] = spread(self.inputs["input_ids"], filler)
        inputs["attention_mask"] = inputs["attention_mask"].masked_fill(fillers, 1)
        spans = [
            longer(span.shift(int(gap)), int(more))
            for span, gap, more in zip(self.spans, padding[:, 0], count[:, 0], strict=True)
        ]
        labels = spread(self.labels, IGNORED)
        made = Batch(inputs, labels, spans, prefix=prefix, fired=self.fired, scores=self.scores)
        return made, places

    def embedded(self, embeddings: Tensor) -> Tensor:
        """``embeddings`` (B, T, D) with the vectors of :attr:`prefix` in place of the fillers'."""
        for row, vectors in self.prefix.items():
            offsets = torch.arange(len(vectors), device=embeddings.device)
            places = offsets + self.spans[row].prompt[0]
            index = (torch.full_like(places, row), places)
            embeddings = embeddings.index_put(index, vectors.to(embeddings))
        return embeddings


def longer(span: Spans, count: int) -> Spans:
    """The spans of a row after ``count`` tokens were put before its text."""
    first, last = span.prompt
    start, stop = span.answer
    return replace(span, prompt=(first, last + count), answer=(start + count, stop + count))


@dataclass(slots=True)
class HiddenBatch(AnswerRows):
    """A decoder layer's output with all other inputs of the layers above it.

    ``hidden`` (B, T, D) are the states, ``attention_mask`` and ``labels`` are (B, T),
    ``position_ids`` (…, B, T) or ``None``. ``extra`` holds further inputs of the layers above for
    every token (B, T, …), by name. With a ``cache`` of keys and values the T tokens continue P
    earlier ones, and ``attention_mask`` is (B, P + T).
    """

    hidden: Tensor
    attention_mask: Tensor
    labels: Tensor
    spans: list[Spans]
    position_ids: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    cache: Any = None

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def real(self) -> Tensor:
        """The tokens that are not padding, boolean (B, T)."""
        return self.attention_mask[:, -self.labels.shape[1] :].bool()

    def to(self, device: torch.device | str) -> "HiddenBatch":
        """The same values on ``device``."""
        positions = self.position_ids
        return HiddenBatch(
            hidden=self.hidden.to(device),
            attention_mask=self.attention_mask.to(device),
            labels=self.labels.to(device),
            spans=self.spans,
            position_ids=None if positions is None else positions.to(device),
            extra={name: value.to(device) for name, value in self.extra.items()},
            cache=self.cache,
        )

    def rows(self) -> list["HiddenBatch"]:
        """Each row alone, as a batch of one without padding. Shares memory with this batch."""
        return [self.row(index) for index in range(len(self))]

    def row(self, index: int) -> "HiddenBatch":
        """One row alone, as a batch of one without padding. Shares memory with this batch."""
        span = self.spans[index]
        row = slice(index, index + 1)
        real = slice(span.start, span.stop)
        positions = self.position_ids
        return HiddenBatch(
            hidden=self.hidden[row, real],
            attention_mask=self.attention_mask[row, real],
            labels=self.labels[row, real],
            spans=[span.shift(-span.start)],
            position_ids=None if positions is None else positions[..., row, real],
            extra={name: value[row, real] for name, value in self.extra.items()},
        )

    def positions(self, axes: torch.Size) -> Tensor:
        """``position_ids`` (…, B, T), counted from 0 where they are ``None``."""
        if self.position_ids is not None:
            return self.position_ids
        counted = torch.arange(self.labels.shape[1], device=self.labels.device)
        return counted.expand(*axes, *self.labels.shape)

    def extra_of(self, name: str, like: Tensor, gap: int) -> Tensor:
        """``extra[name]``, or zeros like ``like`` if it is missing, with ``gap`` zeros appended."""
        value = self.extra.get(name)
        if value is None:
            return like.new_zeros(len(self), self.labels.shape[1] + gap, *like.shape[2:])
        return F.pad(value, (*(0, 0) * (value.ndim - 2), 0, gap))

    @staticmethod
    def stack(rows: Sequence["HiddenBatch"]) -> "HiddenBatch":
        """Batches as one, padded on the right. All must come from one layer of one VLM.

        Where some have positions and some do not, as in Qwen2-VL the rows without an image, the
        latter's are counted from 0; what some lack in ``extra`` is 0 for them.
        """
        length = max(row.hidden.shape[1] for row in rows)
        gaps = [length - row.hidden.shape[1] for row in rows]
        padded = list(zip(rows, gaps, strict=True))
        known = [row.position_ids.shape[:-2] for row in rows if row.position_ids is not None]
        positions = None
        if known:
            positions = torch.cat(
                [F.pad(row.positions(known[0]), (0, gap)) for row, gap in padded], -2
            )
        extra: dict[str, Tensor] = {}
        for other in rows:
            for name, like in other.extra.items():
                extra[name] = torch.cat([row.extra_of(name, like, gap) for row, gap in padded])
        return HiddenBatch(
            hidden=torch.cat([F.pad(row.hidden, (0, 0, 0, gap)) for row, gap in padded]),
            attention_mask=torch.cat([F.pad(row.attention_mask, (0, gap)) for row, gap in padded]),
            labels=torch.cat([F.pad(row.labels, (0, gap), value=IGNORED) for row, gap in padded]),
            spans=list(chain.from_iterable(row.spans for row in rows)),
            position_ids=positions,
            extra=extra,
        )
