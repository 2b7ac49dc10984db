"""Kosmos-2 (Peng et al., 2023) and Kosmos-2.5 (Lv et al., 2023): image tokens between two marks,
before the prompt.

What stands for the image is any token: a mask over the row says where it is. Two departures from
the code in transformers, both before its text model: the image is put in there and not within the
decoder, which thus takes embeddings as other decoders do; and positions count the tokens that the
attention mask shows, where that code counts the padding on the left among the tokens before one
that it generates.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor

from liveedit.errors import BadInput
from liveedit.models.batch import Batch, Spans
from liveedit.models.encoder import Picture, PromptFormat, nested
from liveedit.models.vlm import VLM
from liveedit.types import Query

__all__ = ["Kosmos", "Kosmos2", "Kosmos25"]

PLACES = "image_embeds_position_mask"


class Kosmos(VLM):
    """BOS, the image between its marks and the prompt; no template for chats."""

    decoder_path = "text_model.model"
    tower_path = "vision_model"
    connector_path = "image_to_text_projection"
    single = "Kosmos puts one before its text"
    pixels: ClassVar[str]
    """What the model calls the image."""
    ends: ClassVar[tuple[str, str]]
    """What the processor calls the marks around the image."""
    gap: ClassVar[str]
    """What stands between the image and the prompt."""
    mark: ClassVar[int]
    """The value of the marks in the mask of places."""

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        if prompt_format == "chat":
            raise BadInput("Kosmos answers single prompts: use the prompt format 'raw'")
        super().__init__(model, processor, prompt_format or "raw")
        self.begin, self.end = (getattr(processor, name) for name in self.ends)

    def before_decoder(self, given: dict[str, Any]) -> dict[str, Any]:
        """Embeddings (B, T, D) in place of tokens, the image's among them, and positions (B, T)."""
        ids, image, places, mask = (
            given.get(name) for name in ("input_ids", "image_embeds", PLACES, "attention_mask")
        )
        if ids is None:
            return given
        embedded = self.embedding(ids)
        if image is not None and places is not None:
            embedded = embedded.masked_scatter((places == 1)[..., None], image.to(embedded))
        found = {"input_ids": None, "inputs_embeds": embedded, "image_embeds": None}
        if mask is not None:
            positions = mask.cumsum(1) * mask + self.model.text_model.config.pad_token_id
            found["position_ids"] = positions[:, -ids.shape[1] :]
        return given | found

    def render(self, query: Query) -> str:
        """The text, with both marks of an image and nothing between them."""
        image = f"{self.begin}{self.end}{self.gap}" if query.images else ""
        return f"{self.tokenizer.bos_token}{image}{query.prompt.strip()}"

    def processed(self, query: Query) -> dict[str, Any]:
        """What the processor, which writes BOS and image tokens itself, makes of the query's
        prompt.
        """
        return dict(
            self.processor(
                images=nested(query.images), text=[query.prompt.strip()], return_tensors="pt"
            )
        )

    @property
    def image_token_id(self) -> int:
        """The mark before the image."""
        return int(self.tokenizer.convert_tokens_to_ids(self.begin))

    def image_tokens(self, input_ids: Tensor) -> Tensor:
        """Which of the tokens (B, T) are between the marks of an image, boolean (B, T)."""
        begun = input_ids == self.image_token_id
        ended = input_ids == self.tokenizer.convert_tokens_to_ids(self.end)
        inside: Tensor = (begun.cumsum(1) > ended.cumsum(1)) & ~begun
        return inside

    def fillers(self, count: int) -> list[int]:
        """The token ids that the processor writes for ``count`` image tokens."""
        raise NotImplementedError

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of rendered texts, which begin with BOS."""
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def place(self, ids: list[int], counts: list[int]) -> list[int]:
        """Token ids of a rendered text, with those of the image behind the mark before it."""
        self.check_placeholders(ids, len(counts))
        at = ids.index(self.image_token_id) + 1 if counts else 0
        return [*ids[:at], *self.fillers(sum(counts)), *ids[at:]]

    def picture(self, images: Sequence[Image]) -> Picture:
        """The pixels; every image takes as many tokens as the model has queries for it."""
        options = {"return_tensors": "pt"} | getattr(self.processor, "images_kwargs", {})
        inputs = self.processor.image_processor(images=list(images), **options)
        return {self.pixels: inputs[self.pixels]}, [self.model.config.latent_query_num] * len(
            images
        )

    def token_kinds(self, input_ids: Tensor, spans: list[Spans]) -> dict[str, Tensor]:
        """The mask of places (B, T): 1 for the image's tokens."""
        places = torch.zeros_like(input_ids)
        for row, span in zip(places, spans, strict=True):
            start, stop = span.image
            if start < stop:
                row[start - 1 : stop + 1] = self.mark
                row[start:stop] = 1
        return {PLACES: places}


class Kosmos2(Kosmos):
    """A blank stands between image and prompt."""

    pixels = "pixel_values"
    ends = ("boi_token", "eoi_token")
    gap = " "
    mark = 0

    def fillers(self, count: int) -> list[int]:
        """Token ids one after the other, from the one behind that of the unknown token."""
        first = self.processor.first_image_token_id
        first = self.tokenizer.unk_token_id + 1 if first is None else first
        return [*range(first, first + count)]

    def join(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The pixels of all images. Kosmos-2 always asks for some: without any it gets a blank one,
        unread.
        """
        size = self.model.config.vision_config.image_size
        return super().join(parts) or {self.pixels: torch.zeros(1, 3, size, size)}


class Kosmos25(Kosmos):
    """Images of any shape, and two embeddings that tell the image and its marks from the rest."""

    pixels = "flattened_patches"
    ends = ("image_start_token", "image_end_token")
    gap = ""
    mark = -1

    def fillers(self, count: int) -> list[int]:
        """The same token throughout."""
        return [int(self.tokenizer.convert_tokens_to_ids(self.processor.image_token))] * count

    def extra(self, batch: Batch, kwargs: dict[str, Any]) -> dict[str, Tensor]:  # noqa: ARG002
        """The mask of places, which the decoder embeds."""
        return {PLACES: kwargs[PLACES]}
