"""The background: unrelated queries that show what a model's features look like without an edit.

From a quarter of its images `direct` learns what is common to all images and questions. With the
others it sets its thresholds: what was learned from an image fits it better than any other, so that
a threshold set with it would be too low.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from liveedit.data.background import RELATIONS
from liveedit.editors.common.attention import cut
from liveedit.editors.common.branch import Recorder
from liveedit.editors.common.examples import chunks
from liveedit.models.batch import Batch, HiddenBatch, Spans
from liveedit.models.patch import INPUT
from liveedit.models.vlm import VLM
from liveedit.types import Query

__all__ = [
    "START",
    "Background",
    "Features",
    "features",
    "image_means",
    "read_background",
    "read_features",
    "texts_alone",
]

START = f"layers.0{INPUT}"
"""Where images are read: above it, an image's tokens also hold the text before them."""


@dataclass(frozen=True, slots=True)
class Features:
    """Each row's image and question as a frozen model reads them, in float32.

    Arguments:
        image: Mean of the image's tokens at the decoder's input, (B, D); NaN for a row without
            image.
        alone: State of the last prompt token at the edit layer if the text is read without the
            image, (B, D).
        asked: The same with the image, (B, D).
    """

    image: Tensor
    alone: Tensor
    asked: Tensor

    @property
    def shown(self) -> Tensor:
        """The rows with an image, boolean (B,)."""
        return ~self.image[:, 0].isnan()

    @classmethod
    def cat(cls, parts: "Sequence[Features]") -> "Features":
        """The rows of several batches."""
        return cls(
            torch.cat([part.image for part in parts]),
            torch.cat([part.alone for part in parts]),
            torch.cat([part.asked for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Background:
    """Features of queries of each sort.

    Arguments:
        common: Images with a question each.
        alone: These questions without an image.
        apart: Other images with a question each.
        flag: Some of the latter, each with all questions about flags, one image after the other.
        emoji: Others, with all questions about emoji.
    """

    common: Features
    alone: Features
    apart: Features
    flag: Features
    emoji: Features

    @property
    def sorts(self) -> dict[str, Features]:
        """The images with all questions, by the sort of the questions."""
        return {sort: getattr(self, sort) for sort in RELATIONS}


def read_features(vlm: VLM, layer: int, batch: Batch) -> tuple[Features, HiddenBatch]:
    """The features of a batch, and its states at ``layer``."""
    start = Recorder(START)
    with vlm.patched(start):
        hidden = vlm.hidden(batch, layer)
    images = image_means(start.seen[START], hidden.spans).to(hidden.hidden.device)
    return features(images, hidden.hidden, hidden.spans, texts_alone(vlm, layer, batch)), hidden


def image_means(inputs: Tensor, spans: Sequence[Spans]) -> Tensor:
    """:attr:`Features.image` of rows with the states ``inputs`` (B, T, D) at :data:`START`."""
    image = cut(inputs, [span.image for span in spans])
    shown = image.mask[..., None]
    return (image.states * shown).sum(1) / shown.sum(1)  # 0 / 0 without an image: NaN


def features(images: Tensor, hidden: Tensor, spans: Sequence[Spans], alone: Tensor) -> Features:
    """The features of rows with the states ``hidden`` (B, T, D) at the edit layer, given
    :func:`image_means` and :func:`texts_alone`.
    """
    last = cut(hidden, [(span.prompt[1] - 1, span.prompt[1]) for span in spans])
    return Features(images, alone.to(images), last.states[:, 0].to(images))


@torch.no_grad()
def texts_alone(vlm: VLM, layer: int, batch: Batch) -> Tensor:
    """:attr:`Features.alone` of a batch: its texts go through the model once more, without images.

    A question's last state would otherwise depend on the image, which it has read.
    """
    texts = _texts(vlm, batch)
    found: dict[tuple[int, ...], Tensor] = {}
    for chunk in chunks(list(dict.fromkeys(texts))):
        with vlm.unpatched():
            last = vlm.text_states(chunk, layer).float()
        found |= dict(zip(chunk, last, strict=True))
    return torch.stack([found[text] for text in texts])


def _texts(vlm: VLM, batch: Batch) -> list[tuple[int, ...]]:
    """The token ids of each row's prompt without those of images."""
    ids = batch.inputs["input_ids"]
    images = vlm.image_tokens(ids)
    texts = []
    for row, span in enumerate(batch.spans):
        prompt = slice(span.start, span.prompt[1])
        texts.append(tuple(ids[row, prompt][~images[row, prompt]].tolist()))
    return texts


@torch.no_grad()
def read_background(vlm: VLM, layer: int, queries: Mapping[str, Sequence[Query]]) -> Background:
    """The features of a background's ``queries``, on the model's device."""
    with vlm.unpatched():
        return Background(**{name: _read(vlm, layer, queries[name]) for name in queries})


def _read(vlm: VLM, layer: int, queries: Sequence[Query]) -> Features:
    """The features of queries, of which there may be none."""
    none = torch.empty(0, vlm.state_size, device=vlm.device)
    read = [Features(none, none, none)]
    for some in chunks(queries):
        read.append(read_features(vlm, layer, vlm.encode(some))[0])
    return Features.cat(read)
