"""Retriever: finds the edit that a query is about, for in-context methods.

The published retrievers of IKE and LTE compare text alone (``by="text"``). As questions about
different images have the same words, edits of other images then interfere. By default the image
counts, too:

    an edit e is about the query x  if  cos(t_e, t_x) > threshold
                                    and  cos(i_e, i_x) > image_threshold

t is the sentence's vector, i the mean of the image's tokens at the text decoder's input. Of several
such edits the one with the largest sum of both cosines is taken. Where neither has an image, the
text alone counts; where one of them has, they are about different things. With ``threshold=None``
the nearest edit is always taken.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from liveedit.data.images import open_image
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.sentences import SentenceEncoder, find_encoder
from liveedit.models.batch import Scores
from liveedit.models.vlm import VLM
from liveedit.types import Query

__all__ = ["By", "Retriever"]

By = Literal["text", "both"]
"""The evidence that retrieval uses: the text, or text and image."""

REMEMBERED = 4096
"""Images whose keys are cached."""


class Retriever:
    """Keys of queries, and the edit whose key is nearest. The encoder is loaded when first needed.

    Raises :class:`BadInput` where there is no such encoder.
    """

    def __init__(
        self,
        vlm: VLM,
        encoder: str,
        by: By,
        threshold: float | None = None,
        image_threshold: float = 0.0,
    ) -> None:
        find_encoder(encoder)  # fails early, before any training or edit
        self.vlm = vlm
        self.encoder = encoder
        self.by = by
        self.threshold = threshold
        self.image_threshold = image_threshold
        self.image_keys = dict[bytes, Tensor]()

    @cached_property
    def sentences(self) -> SentenceEncoder:
        """The encoder of texts."""
        return SentenceEncoder(self.encoder)

    @property
    def no_keys(self) -> dict[str, Tensor]:
        """The tensors of :meth:`keys` without a row."""
        return {
            "text_key": torch.empty(0, self.sentences.width),
            "image_key": torch.empty(0, self.vlm.hidden_size),
        }

    def keys(self, texts: Sequence[str], queries: Sequence[Query]) -> dict[str, Tensor]:
        """``text_key`` (n, d) of the texts that represent n queries, and ``image_key`` (n, D).

        The latter is 0 for a query without image.
        """
        image_keys = [self.image_key(query) for query in queries]
        return {"text_key": self.sentences(texts), "image_key": torch.stack(image_keys)}

    @torch.no_grad()
    def image_key(self, query: Query) -> Tensor:
        """The direction (D,) of the mean token of a query's image, 0 without image."""
        if query.image is None:
            return torch.zeros(self.vlm.hidden_size)
        images = [open_image(image) for image in query.asked]
        pixels = sha256(b"".join(image.tobytes() for image in images)).digest()
        if pixels not in self.image_keys:
            if len(self.image_keys) >= REMEMBERED:
                self.image_keys.clear()
            states = self.vlm.image_states(images).float()
            self.image_keys[pixels] = F.normalize(states.mean(0), dim=0).cpu()
        return self.image_keys[pixels]

    def find(
        self, bank: Bank, query: Query, eligible: Callable[[Tensor], Tensor] | None = None
    ) -> int | None:
        """The index in ``bank``, which holds :meth:`keys`, of the edit that ``query`` is about.

        ``None`` if there is none. ``eligible`` leaves out, of the edits that fit (1, E), those that
        are overruled by others.
        """
        return self.search(bank, query, eligible)[0]

    def search(
        self, bank: Bank, query: Query, eligible: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[int | None, Scores | None]:
        """The edit of :meth:`find`, and how near the query came to each edit."""
        found, scores = self.nearest(bank, query, 1, eligible)
        return (found[0] if found else None), scores

    def nearest(
        self,
        bank: Bank,
        query: Query,
        count: int,
        eligible: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[list[int], Scores | None]:
        """At most ``count`` edits that ``query`` may be about, the nearest first, and the scores of
        :meth:`search`.
        """
        if not len(bank):
            return [], None
        text = bank["text_key"] @ self.sentences([query.prompt])[0]
        likeness = torch.full_like(text, torch.nan)
        score = text
        fits = torch.ones_like(text, dtype=torch.bool)
        if self.threshold is not None:
            fits = text > self.threshold
        if self.by == "both":
            likeness = bank["image_key"] @ self.image_key(query)
            score = text + likeness
            if self.threshold is not None:
                fits &= self._image_fits(bank, query, likeness)
        if eligible is not None:
            fits = eligible(fits[None])[0]
        order = score.masked_fill(~fits, -torch.inf).argsort(descending=True, stable=True)
        best = order[:count]
        return best[fits[best]].tolist(), self._scores(bank, query, text, likeness)

    def _scores(self, bank: Bank, query: Query, text: Tensor, likeness: Tensor) -> Scores:
        """The scores of a query, given both cosines (E,); without a threshold, the distance from
        the nearest edit counts.
        """
        every = torch.arange(len(text), device=text.device)
        if self.threshold is None:
            score = text + likeness.nan_to_num(0.0)
            return Scores(every, score - score.max(), image=likeness, question=text)
        above = text - self.threshold
        if self.by == "both":
            above = self._above(bank, query, above, likeness - self.image_threshold)
        return Scores(
            every,
            above,
            image=likeness,
            image_threshold=torch.full_like(text, self.image_threshold),
            question=text,
            question_threshold=torch.full_like(text, self.threshold),
        )

    def _above(self, bank: Bank, query: Query, by_text: Tensor, by_image: Tensor) -> Tensor:
        """How far each edit (E,) is above both thresholds, given how far it is above each."""
        with_image = bank["image_key"].any(1)
        if query.image is None:
            return by_text.masked_fill(with_image, -torch.inf)
        return torch.minimum(by_text, by_image).masked_fill(~with_image, -torch.inf)

    def _image_fits(self, bank: Bank, query: Query, likeness: Tensor) -> Tensor:
        """The edits (E,) whose image, or lack of one, fits that of ``query``."""
        with_image = bank["image_key"].any(1)
        if query.image is None:
            return ~with_image
        return with_image & (likeness > self.image_threshold)
