"""Kosmos-2 (Peng et al., 2023, arXiv 2306.14824) and 2.5 (Lv et al., 2023, arXiv 2309.11419).

The text decoder is given BOS, the image between two marks, and the prompt. The image's tokens may
have any ids: a mask over the row (``image_embeds_position_mask``) says where the image goes. There
is no chat template.

Two departures from transformers' code, both in :meth:`Kosmos.before_decoder`. The image is put
among the embeddings before the decoder and not inside it, so that the decoder takes embeddings as
others do. And positions count only the tokens that the attention mask shows; for generated tokens,
transformers' code also counts the padding on the left.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor

from liveedit.errors import BadInput
from liveedit.models.batch import Batch, Spans
from liveedit.models.encoder import ImageInputs, PromptFormat, nested
from liveedit.models.vlm import VLM
from liveedit.types import Query

__all__ = ["Kosmos", "Kosmos2", "Kosmos25"]

PLACES = "image_embeds_position_mask"
"""The model's argument that marks the image's tokens with 1, (B, T)."""


class Kosmos(VLM):
    """Kosmos: BOS, the image between its marks, the prompt; one image per prompt."""

    decoder_path = "text_model.model"
    tower_path = "vision_model"
    connector_path = "image_to_text_projection"
    single = "Kosmos puts one before its text"
    pixels: ClassVar[str]
    """The model's argument for the image."""
    bounds: ClassVar[tuple[str, str]]
    """The processor's attributes for the marks before and after the image."""
    gap: ClassVar[str]
    """The text between the image and the prompt."""
    mark: ClassVar[int]
    """The value of the marks in the mask of places."""

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        if prompt_format == "chat":
            raise BadInput("Kosmos has no chat template: use the prompt format 'raw'")
        super().__init__(model, processor, prompt_format or "raw")
        self.begin, self.end = (getattr(processor, name) for name in self.bounds)

    def before_decoder(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments with embeddings (B, T, D), image included, and positions (B, T)."""
        ids = given.get("input_ids")
        if ids is None:
            return given
        embedded = self.embedding(ids)
        image = given.get("image_embeds")
        places = given.get(PLACES)
        if image is not None and places is not None:
            embedded = embedded.masked_scatter((places == 1)[..., None], image.to(embedded))
        found = {"input_ids": None, "inputs_embeds": embedded, "image_embeds": None}
        mask = given.get("attention_mask")
        if mask is not None:
            # Kosmos counts positions from the padding's id plus 1, as fairseq does.
            positions = mask.cumsum(1) * mask + self.model.text_model.config.pad_token_id
            found["position_ids"] = positions[:, -ids.shape[1] :]
        return given | found

    def render(self, query: Query) -> str:
        """Return the text up to the answer; the marks of an image have nothing between them."""
        image = f"{self.begin}{self.end}{self.gap}" if query.images else ""
        return f"{self.tokenizer.bos_token}{image}{query.prompt.strip()}"

    def processed(self, query: Query) -> dict[str, Any]:
        """Return the processor's output for the query; it writes BOS and image tokens by itself."""
        images = nested(query.images)
        return dict(self.processor(images=images, text=[query.prompt.strip()], return_tensors="pt"))

    @property
    def image_token_id(self) -> int:
        """The id of the mark before the image."""
        return int(self.tokenizer.convert_tokens_to_ids(self.begin))

    def image_tokens(self, input_ids: Tensor) -> Tensor:
        """Mark the tokens (B, T) between the marks of an image, boolean (B, T)."""
        begun = input_ids == self.image_token_id
        ended = input_ids == self.tokenizer.convert_tokens_to_ids(self.end)
        inside: Tensor = (begun.cumsum(1) > ended.cumsum(1)) & ~begun
        return inside

    def fillers(self, count: int) -> list[int]:
        """Return the token ids that the processor writes for ``count`` image tokens."""
        raise NotImplementedError

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of rendered texts, which begin with BOS already."""
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def expand_image_tokens(self, ids: list[int], counts: list[int]) -> list[int]:
        """Put the image's token ids after the mark that precedes them; ``counts`` says how many."""
        self.check_placeholders(ids, len(counts))
        at = ids.index(self.image_token_id) + 1 if counts else 0
        return [*ids[:at], *self.fillers(sum(counts)), *ids[at:]]

    def process_images(self, images: Sequence[Image]) -> ImageInputs:
        """Return the image under the model's name for it, and the number of its latent queries."""
        options = {"return_tensors": "pt"} | getattr(self.processor, "images_kwargs", {})
        inputs = self.processor.image_processor(images=list(images), **options)
        counts = [self.model.config.latent_query_num] * len(images)
        return {self.pixels: inputs[self.pixels]}, counts

    def token_kinds(self, input_ids: Tensor, spans: list[Spans]) -> dict[str, Tensor]:
        """Return the mask of places (B, T): 1 for the image's tokens, ``mark`` for its marks."""
        places = torch.zeros_like(input_ids)
        for row, span in zip(places, spans, strict=True):
            start, stop = span.image
            if start < stop:
                row[start - 1 : stop + 1] = self.mark
                row[start:stop] = 1
        return {PLACES: places}


class Kosmos2(Kosmos):
    """Kosmos-2: square images; a space stands between image and prompt."""

    pixels = "pixel_values"
    bounds = ("boi_token", "eoi_token")
    gap = " "
    mark = 0

    def fillers(self, count: int) -> list[int]:
        """Return consecutive token ids, from the processor's first or the one after UNK."""
        first = self.processor.first_image_token_id
        if first is None:
            first = self.tokenizer.unk_token_id + 1
        return [*range(first, first + count)]

    def join(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the pixels (n, 3, H, W) of all images; of a blank image if there is none.

        The model always needs some; without an image in the text it leaves them unread.
        """
        size = self.model.config.vision_config.image_size
        return super().join(parts) or {self.pixels: torch.zeros(1, 3, size, size)}


class Kosmos25(Kosmos):
    """Kosmos-2.5: images of any shape; the decoder also embeds the mask of places."""

    pixels = "flattened_patches"
    bounds = ("image_start_token", "image_end_token")
    gap = ""
    mark = -1

    def fillers(self, count: int) -> list[int]:
        """Return the image token's id, ``count`` times."""
        return [int(self.tokenizer.convert_tokens_to_ids(self.processor.image_token))] * count

    def extra(self, batch: Batch, kwargs: dict[str, Any]) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the mask of places (B, T), which the decoder embeds."""
        return {PLACES: kwargs[PLACES]}
