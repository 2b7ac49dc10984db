"""What a VLM reads and what an editor needs to know about it: Spans, Batch, HiddenBatch.

Shapes: B rows, T tokens (padding included), D width of the text decoder, V size of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from liveedit.models.patch import Patch

__all__ = [
    "IGNORED",
    "Batch",
    "Firing",
    "HiddenBatch",
    "PaddingSide",
    "Spans",
    "common_prefix",
    "find_spans",
    "going_on",
    "pad_rows",
]

PaddingSide = Literal["left", "right"]

Firing = tuple[int, float]
"""The place in a patch of an edit that took part in an answer, and its weight."""

IGNORED = -100
"""The label of a token that is not part of the answer."""


@dataclass(frozen=True, slots=True)
class Spans:
    """Where the parts of one row are, as half-open token ranges that follow one another without a
    gap.

    ``before`` holds what stands before the image (BOS, a system prompt), ``image`` the image
    tokens, ``prompt`` the text after the image up to and with the last prompt token, ``answer`` the
    answer. Padding belongs to none of them. Of several images ``image`` is the one asked about,
    from the first to the last where all are; the others are in ``before`` and ``prompt``. A
    text-only row has empty ``before`` and ``image`` and its whole text, BOS included, in
    ``prompt``.
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
        """The same parts in a row that stands ``offset`` tokens further to the right."""
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
    spans = []
    lengths = [0] * len(image) if answers is None else answers
    for pictured, real, length in zip(
        image.bool().tolist(), attention_mask.bool().tolist(), lengths, strict=True
    ):
        start, stop = bounds(real)
        first, last = bounds(pictured) if any(pictured) else (start, start)
        spans.append(
            Spans((start, first), (first, last), (last, stop - length), (stop - length, stop))
        )
    return spans


def bounds(marks: list[bool]) -> tuple[int, int]:
    """The half-open range from the first to the last mark, (0, 0) if there is none."""
    return (marks.index(True), len(marks) - marks[::-1].index(True)) if any(marks) else (0, 0)


def pad_rows(rows: Sequence[Sequence[int]], filler: int, side: PaddingSide) -> Tensor:
    """The rows as one (B, T) tensor of long, T the longest row's length, the others filled up on
    ``side``.
    """
    length = max(len(row) for row in rows)
    fill = [[filler] * (length - len(row)) for row in rows]
    if side == "left":
        return torch.tensor(
            [[*gap, *row] for row, gap in zip(rows, fill, strict=True)], dtype=torch.long
        )
    return torch.tensor(
        [[*row, *gap] for row, gap in zip(rows, fill, strict=True)], dtype=torch.long
    )


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(first), len(second)))


def going_on(kept: Sequence[int], rows: Tensor) -> tuple[list[int], list[int]]:
    """Of rows that go on behind ``rows``, those behind one of the rows ``kept``, and the place of
    that among these.
    """
    place = {row: number for number, row in enumerate(kept)}
    found = [(new, place[old]) for new, old in enumerate(rows.tolist()) if old in place]
    return [new for new, _ in found], [old for _, old in found]


def per_token(name: str) -> bool:
    """Whether an input of this name holds one value for each token (B, T)."""
    return name in ("input_ids", "attention_mask") or name.endswith(
        ("token_type_ids", "position_mask")
    )


def predicting(labels: Tensor) -> Tensor:
    """Which positions (B, T) predict an answer token: those just before a label (B, T) that is not
    ignored.
    """
    return F.pad(labels[:, 1:] != IGNORED, (0, 1))


class AnswerRows:
    """Rows with an answer each: which of their tokens are the prompt, and which predict the answer."""

    __slots__ = ()
    labels: Tensor
    spans: list[Spans]

    def answer_positions(self) -> Tensor:
        """The positions, boolean (B, T), whose logits predict the answer's tokens: one left of each."""
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
    """Encoded queries.

    ``inputs`` is what the Hugging Face model takes, opaque but for ``input_ids`` and
    ``attention_mask``, both (B, T). ``labels`` (B, T) hold ``input_ids`` on the answer tokens and
    -100 elsewhere; they are not shifted. ``position_ids`` (…, B, T) is what the text decoder was
    given, filled in by ``VLM.hidden``; ``None`` where the decoder makes its own. ``prefix`` holds
    by row the vectors (n, D) that a patch has put before its text: the first n tokens of its prompt
    are fillers, whose embeddings they replace. ``extra`` holds what else the decoder was given of
    every token (B, T, …), by name, filled in by ``VLM.hidden``. ``fired`` says of every row which
    edits took part, by the patch that holds them, filled in while the batch is encoded and while it
    goes through the model.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    spans: list[Spans]
    position_ids: Tensor | None = None
    prefix: dict[int, Tensor] = field(default_factory=dict)
    extra: dict[str, Tensor] = field(default_factory=dict)
    fired: "dict[Patch, list[list[Firing]]]" = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.spans)

    def fired_by(self, patch: "Patch") -> list[list[Firing]]:
        """For each row the edits of a patch that took part, with their weights, the heaviest first."""
        return self.fired.get(patch) or [[] for _ in self.spans]

    def extended(self, input_ids: Tensor) -> "Batch":
        """The batch followed by the tokens ``input_ids`` (B, T') that were generated since; they
        are in no span.
        """
        gap, inputs = (0, input_ids.shape[1]), dict(self.inputs)
        for name, value in self.inputs.items():
            if per_token(name):
                inputs[name] = F.pad(value, gap)
        inputs["input_ids"] = torch.cat([self.inputs["input_ids"], input_ids], 1)
        inputs["attention_mask"] = F.pad(self.inputs["attention_mask"], gap, value=1)
        return replace(self, inputs=inputs, labels=F.pad(self.labels, gap, value=IGNORED))

    def until(self, length: int) -> "Batch":
        """The batch without what its rows have from the token ``length`` on; spans stay as they
        were.
        """
        inputs = {
            name: value[:, :length] if per_token(name) else value
            for name, value in self.inputs.items()
        }
        return replace(self, inputs=inputs, labels=self.labels[:, :length])

    def pick(self, rows: Tensor) -> "Batch":
        """The rows ``rows`` (B',) of the batch, in that order; of the inputs those of images stay,
        of no one row.
        """
        numbers, rows = rows.tolist(), rows.to(self.labels.device)
        return Batch(
            {
                name: value[rows] if per_token(name) else value
                for name, value in self.inputs.items()
            },
            self.labels[rows],
            [self.spans[row] for row in numbers],
            None if self.position_ids is None else self.position_ids[..., rows, :],
            {new: self.prefix[old] for new, old in enumerate(numbers) if old in self.prefix},
            {name: value[rows] for name, value in self.extra.items()},
            {patch: [fired[row] for row in numbers] for patch, fired in self.fired.items()},
        )

    def prefixed(self, prefix: dict[int, Tensor], filler: int) -> "tuple[Batch, Tensor]":
        """The batch with ``prefix`` before the text of its rows, and where (B, T) its own tokens
        are in that one.

        ``filler`` is the token that stands in for each vector and pads the rows that get fewer, on
        the left if all rows end together, so that generation can go on behind them.
        """
        B, T = self.labels.shape
        most = max(len(vectors) for vectors in prefix.values())
        left = all(span.stop == T for span in self.spans)
        count = torch.tensor([len(prefix.get(row, ())) for row in range(B)])[:, None]
        first = torch.tensor([span.prompt[0] for span in self.spans])[:, None]
        padding = (most - count) * left
        places = torch.arange(T) + padding + count * (torch.arange(T) >= first)
        fillers = torch.arange(T + most) - first - padding
        fillers, places = (
            ((fillers >= 0) & (fillers < count)).to(self.labels.device),
            places.to(self.labels.device),
        )

        def spread(value: Tensor, padded: int) -> Tensor:
            return value.new_full((B, T + most), padded).scatter(1, places, value)

        inputs = {
            name: spread(value, 0) if per_token(name) else value
            for name, value in self.inputs.items()
        }
        inputs["input_ids"] = spread(self.inputs["input_ids"], filler)
        inputs["attention_mask"] = inputs["attention_mask"].masked_fill(fillers, 1)
        spans = [
            longer(span.shift(int(gap)), int(more))
            for span, gap, more in zip(self.spans, padding[:, 0], count[:, 0], strict=True)
        ]
        return Batch(
            inputs, spread(self.labels, IGNORED), spans, None, prefix, fired=self.fired
        ), places

    def embedded(self, embeddings: Tensor) -> Tensor:
        """``embeddings`` (B, T, D) of the batch's tokens with the vectors of its prefix in their
        places.
        """
        for row, vectors in self.prefix.items():
            places = (
                torch.arange(len(vectors), device=embeddings.device) + self.spans[row].prompt[0]
            )
            index = (torch.full_like(places, row), places)
            embeddings = embeddings.index_put(index, vectors.to(embeddings))
        return embeddings


def longer(span: Spans, count: int) -> Spans:
    """The spans of a row whose prompt begins with ``count`` tokens more."""
    (first, last), (start, stop) = span.prompt, span.answer
    return replace(span, prompt=(first, last + count), answer=(start + count, stop + count))


@dataclass(slots=True)
class HiddenBatch(AnswerRows):
    """What the text decoder holds after one of its layers: enough to run the layers above, without
    image or HF inputs.

    ``hidden`` (B, T, D), ``attention_mask`` and ``labels`` (B, T), ``position_ids`` (…, B, T) or
    ``None``. ``extra`` holds what else the layers above read of every token (B, T, …), by name.
    """

    hidden: Tensor
    attention_mask: Tensor
    labels: Tensor
    spans: list[Spans]
    position_ids: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.spans)

    def to(self, device: torch.device | str) -> "HiddenBatch":
        """The same values on ``device``."""
        positions = None if self.position_ids is None else self.position_ids.to(device)
        moved = (self.hidden.to(device), self.attention_mask.to(device), self.labels.to(device))
        extra = {name: value.to(device) for name, value in self.extra.items()}
        return HiddenBatch(*moved, self.spans, positions, extra)

    def rows(self) -> list["HiddenBatch"]:
        """Each row alone, as a batch of one without padding. Shares memory with this batch."""
        return [self.row(index) for index in range(len(self))]

    def row(self, index: int) -> "HiddenBatch":
        """One row alone, as a batch of one without padding. Shares memory with this batch."""
        span = self.spans[index]
        row, real = slice(index, index + 1), slice(span.start, span.stop)
        positions = None if self.position_ids is None else self.position_ids[..., row, real]
        parts = (self.hidden[row, real], self.attention_mask[row, real], self.labels[row, real])
        extra = {name: value[row, real] for name, value in self.extra.items()}
        return HiddenBatch(*parts, [span.shift(-span.start)], positions, extra)

    def positions(self, axes: torch.Size) -> Tensor:
        """``position_ids`` (…, B, T), counted from 0 where the decoder makes its own."""
        if self.position_ids is not None:
            return self.position_ids
        return torch.arange(self.labels.shape[1], device=self.labels.device).expand(
            *axes, *self.labels.shape
        )

    def extra_of(self, name: str, like: Tensor, gap: int) -> Tensor:
        """``extra[name]`` with ``gap`` tokens of zeros behind; zeros of the kind of ``like`` if it
        is not there.
        """
        value = self.extra.get(name)
        if value is None:
            return like.new_zeros(len(self), self.labels.shape[1] + gap, *like.shape[2:])
        return F.pad(value, (*(0, 0) * (value.ndim - 2), 0, gap))

    @staticmethod
    def stack(rows: Sequence["HiddenBatch"]) -> "HiddenBatch":
        """Batches as one, padded on the right. The rows must come from the same layer of the same
        VLM.

        Where some have positions and some do not (Qwen2-VL's without an image), the latter's are
        counted from 0; what some alone have in ``extra`` is 0 for the others.
        """
        length = max(row.hidden.shape[1] for row in rows)
        gaps = [length - row.hidden.shape[1] for row in rows]
        padded = [(row, gap) for row, gap in zip(rows, gaps, strict=True)]
        axes = next(
            (row.position_ids.shape[:-2] for row in rows if row.position_ids is not None), None
        )
        positions = [
            F.pad(row.positions(axes), (0, gap)) for row, gap in padded if axes is not None
        ]
        return HiddenBatch(
            hidden=torch.cat([F.pad(row.hidden, (0, 0, 0, gap)) for row, gap in padded]),
            attention_mask=torch.cat([F.pad(row.attention_mask, (0, gap)) for row, gap in padded]),
            labels=torch.cat([F.pad(row.labels, (0, gap), value=IGNORED) for row, gap in padded]),
            spans=[span for row in rows for span in row.spans],
            position_ids=torch.cat(positions, -2) if positions else None,
            extra={
                name: torch.cat([row.extra_of(name, like, gap) for row, gap in padded])
                for other in rows
                for name, like in other.extra.items()
            },
        )
