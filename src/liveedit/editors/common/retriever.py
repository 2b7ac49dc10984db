"""Which of the edits a query is about, by what it asks and what it shows: the memory of in-context
methods.

The published retrievers of IKE and LTE read text alone. About images everybody asks the same
questions, so with the text alone the edits of other images get into the way; ``by="text"`` is that
form. By default the image has its say:

    an edit e is about the query x  if  cos(t_e, t_x) > threshold  and  cos(i_e, i_x) > image_threshold

t is the sentence's vector, i the mean of the image's tokens as the text decoder gets them. The edit
with the largest sum of the two cosines is taken. Where neither has an image, text alone counts;
where one of them has, they are about different things. With ``threshold=None`` there is always one:
the nearest.
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
from liveedit.editors.common.sentences import SentenceEncoder, find
from liveedit.models.vlm import VLM
from liveedit.types import Query

__all__ = ["By", "Retriever"]

By = Literal["text", "both"]

REMEMBERED = 4096
"""Images whose keys are kept."""


class Retriever:
    """Keys of queries, and the edit whose key is nearest. The encoder is read when it is first
    needed.

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
        find(encoder)  # before anything is trained or edited that would need it
        self.vlm, self.encoder, self.by = vlm, encoder, by
        self.threshold, self.image_threshold = threshold, image_threshold
        self.looks: dict[bytes, Tensor] = {}

    @cached_property
    def sentences(self) -> SentenceEncoder:
        """The encoder of texts."""
        return SentenceEncoder(self.encoder)

    @property
    def empty(self) -> dict[str, Tensor]:
        """The keys of no query."""
        return {
            "text_key": torch.empty(0, self.sentences.width),
            "image_key": torch.empty(0, self.vlm.hidden_size),
        }

    def keys(self, texts: Sequence[str], queries: Sequence[Query]) -> dict[str, Tensor]:
        """``text_key`` (n, d), of what stands for the queries in words, and ``image_key`` (n, D), 0
        without image.
        """
        return {
            "text_key": self.sentences(texts),
            "image_key": torch.stack([self.look(query) for query in queries]),
        }

    @torch.no_grad()
    def look(self, query: Query) -> Tensor:
        """The direction (D,) of the mean token of the image that a query is about, 0 without image."""
        if query.image is None:
            return torch.zeros(self.vlm.hidden_size)
        pictures = [open_image(image) for image in query.asked]
        key = sha256(b"".join(picture.tobytes() for picture in pictures)).digest()
        if key not in self.looks:
            if len(self.looks) >= REMEMBERED:
                self.looks.clear()
            states = self.vlm.image_states(pictures).float()
            self.looks[key] = F.normalize(states.mean(0), dim=0).cpu()
        return self.looks[key]

    def find(
        self, bank: Bank, query: Query, taking_part: Callable[[Tensor], Tensor] | None = None
    ) -> int | None:
        """The place in ``bank``, which holds :meth:`keys`, of the edit that ``query`` is about;
        ``None`` for none.

        ``taking_part`` says of the edits that fit, (1, E), which do not give way to others.
        """
        if not len(bank):
            return None
        score = bank["text_key"] @ self.sentences([query.prompt])[0]
        fits = (
            torch.ones_like(score, dtype=torch.bool)
            if self.threshold is None
            else score > self.threshold
        )
        if self.by == "both":
            seen, pictured = bank["image_key"] @ self.look(query), bank["image_key"].any(1)
            score = score + seen
            if self.threshold is not None:
                fits &= (
                    ~pictured if query.image is None else pictured & (seen > self.image_threshold)
                )
        if taking_part is not None:
            fits = taking_part(fits[None])[0]
        best = int(score.masked_fill(~fits, -torch.inf).argmax())
        return best if bool(fits[best]) else None
