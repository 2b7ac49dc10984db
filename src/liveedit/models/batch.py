"""What a VLM reads and what an editor needs to know about it: Spans, Batch, HiddenBatch.

Shapes: B rows, T tokens (padding included), D width of the text decoder, V size of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["IGNORED", "Batch", "HiddenBatch", "PaddingSide", "Spans", "common_prefix", "find_spans", "pad_rows"]

PaddingSide = Literal["left", "right"]

IGNORED = -100
"""The label of a token that is not part of the answer."""


@dataclass(frozen=True, slots=True)
class Spans:
    """Where the parts of one row are, as half-open token ranges that follow one another without a gap.

    ``before`` holds what stands before the image (BOS, a system prompt), ``image`` the image tokens, ``prompt`` the
    text after the image up to and with the last prompt token, ``answer`` the answer. Padding belongs to none of them.
    A text-only row has empty ``before`` and ``image`` and its whole text, BOS included, in ``prompt``.
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

    def shift(self, offset: int) -> "Spans":
        """The same parts in a row that stands ``offset`` tokens further to the right."""
        parts = (self.before, self.image, self.prompt, self.answer)
        return Spans(*((start + offset, stop + offset) for start, stop in parts))


def find_spans(image: Tensor, attention_mask: Tensor, answers: Sequence[int] | None = None) -> list[Spans]:
    """The spans of each row.

    ``image`` (B, T) marks the image tokens, ``attention_mask`` (B, T) the tokens that are not padding. ``answers``
    gives the number of answer tokens at the end of each row; without it every token after the image is prompt.
    """
    spans = []
    lengths = [0] * len(image) if answers is None else answers
    for pictured, real, length in zip(image.bool().tolist(), attention_mask.bool().tolist(), lengths, strict=True):
        start, stop = bounds(real)
        first, last = bounds(pictured) if any(pictured) else (start, start)
        spans.append(Spans((start, first), (first, last), (last, stop - length), (stop - length, stop)))
    return spans


def bounds(marks: list[bool]) -> tuple[int, int]:
    """The half-open range from the first to the last mark, (0, 0) if there is none."""
    return (marks.index(True), len(marks) - marks[::-1].index(True)) if any(marks) else (0, 0)


def pad_rows(rows: Sequence[Sequence[int]], filler: int, side: PaddingSide) -> Tensor:
    """The rows as one (B, T) tensor of long, T the longest row's length, the others filled up on ``side``."""
    length = max(len(row) for row in rows)
    fill = [[filler] * (length - len(row)) for row in rows]
    if side == "left":
        return torch.tensor([[*gap, *row] for row, gap in zip(rows, fill, strict=True)], dtype=torch.long)
    return torch.tensor([[*row, *gap] for row, gap in zip(rows, fill, strict=True)], dtype=torch.long)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(first), len(second)))


def predicting(labels: Tensor) -> Tensor:
    """Which positions (B, T) predict an answer token: those just before a label (B, T) that is not ignored."""
    return F.pad(labels[:, 1:] != IGNORED, (0, 1))


@dataclass(slots=True)
class Batch:
    """Encoded queries.

    ``inputs`` is what the Hugging Face model takes, opaque but for ``input_ids`` and ``attention_mask``, both (B, T).
    ``labels`` (B, T) hold ``input_ids`` on the answer tokens and -100 elsewhere; they are not shifted.
    ``position_ids`` (…, B, T) is what the text decoder was given, filled in by ``VLM.hidden``; ``None`` where the
    decoder makes its own.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    spans: list[Spans]
    position_ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.spans)

    def answer_positions(self) -> Tensor:
        """Boolean (B, T): the positions whose logits predict the answer tokens, one left of each of them."""
        return predicting(self.labels)

    def extended(self, input_ids: Tensor) -> "Batch":
        """The batch followed by the tokens ``input_ids`` (B, T') that were generated since; they are in no span."""
        gap, inputs = (0, input_ids.shape[1]), dict(self.inputs)
        for name, value in self.inputs.items():
            if value.shape == self.labels.shape:
                inputs[name] = F.pad(value, gap)
        inputs["input_ids"] = torch.cat([self.inputs["input_ids"], input_ids], 1)
        inputs["attention_mask"] = F.pad(self.inputs["attention_mask"], gap, value=1)
        return replace(self, inputs=inputs, labels=F.pad(self.labels, gap, value=IGNORED))


@dataclass(slots=True)
class HiddenBatch:
    """What the text decoder holds after one of its layers: enough to run the layers above, without image or HF inputs.

    ``hidden`` (B, T, D), ``attention_mask`` and ``labels`` (B, T), ``position_ids`` (…, B, T) or ``None``.
    """

    hidden: Tensor
    attention_mask: Tensor
    labels: Tensor
    spans: list[Spans]
    position_ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.spans)

    def answer_positions(self) -> Tensor:
        """Boolean (B, T): the positions whose logits predict the answer tokens, one left of each of them."""
        return predicting(self.labels)

    def to(self, device: torch.device | str) -> "HiddenBatch":
        """The same values on ``device``."""
        positions = None if self.position_ids is None else self.position_ids.to(device)
        moved = (self.hidden.to(device), self.attention_mask.to(device), self.labels.to(device))
        return HiddenBatch(*moved, self.spans, positions)

    def rows(self) -> list["HiddenBatch"]:
        """Each row alone, as a batch of one without padding. Shares memory with this batch."""
        return [self.row(index) for index in range(len(self))]

    def row(self, index: int) -> "HiddenBatch":
        """One row alone, as a batch of one without padding. Shares memory with this batch."""
        span = self.spans[index]
        row, real = slice(index, index + 1), slice(span.start, span.stop)
        positions = None if self.position_ids is None else self.position_ids[..., row, real]
        parts = (self.hidden[row, real], self.attention_mask[row, real], self.labels[row, real])
        return HiddenBatch(*parts, [span.shift(-span.start)], positions)

    def positions(self, axes: torch.Size) -> Tensor:
        """``position_ids`` (…, B, T), counted from 0 where the decoder makes its own."""
        if self.position_ids is not None:
            return self.position_ids
        return torch.arange(self.labels.shape[1], device=self.labels.device).expand(*axes, *self.labels.shape)

    @staticmethod
    def stack(rows: Sequence["HiddenBatch"]) -> "HiddenBatch":
        """Batches as one, padded on the right. The rows must come from the same layer of the same VLM.

        Where some have positions and some do not (Qwen2-VL's without an image), the latter's are counted from 0.
        """
        length = max(row.hidden.shape[1] for row in rows)
        gaps = [length - row.hidden.shape[1] for row in rows]
        padded = [(row, gap) for row, gap in zip(rows, gaps, strict=True)]
        axes = next((row.position_ids.shape[:-2] for row in rows if row.position_ids is not None), None)
        positions = [F.pad(row.positions(axes), (0, gap)) for row, gap in padded if axes is not None]
        return HiddenBatch(
            hidden=torch.cat([F.pad(row.hidden, (0, 0, 0, gap)) for row, gap in padded]),
            attention_mask=torch.cat([F.pad(row.attention_mask, (0, gap)) for row, gap in padded]),
            labels=torch.cat([F.pad(row.labels, (0, gap), value=IGNORED) for row, gap in padded]),
            spans=[span for row in rows for span in row.spans],
            position_ids=torch.cat(positions, -2) if positions else None,
        )
