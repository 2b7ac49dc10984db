"""BLIP-2 (Li et al., ICML 2023) with a decoder-only text model: Q-Former tokens before the text,
before its BOS too.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from liveedit.errors import UnsupportedModel
from liveedit.models.encoder import Picture, PromptFormat
from liveedit.models.vlm import VLM

__all__ = ["Blip2"]


class Blip2(VLM):
    """The rendered text holds no placeholder: the image tokens are put in front of everything.

    Raises :class:`UnsupportedModel` for an encoder-decoder text model (Flan-T5), which has no
    single stack of layers, and for a checkpoint so old that it has no image token.
    """

    hf_class = "Blip2ForConditionalGeneration"
    decoder_path = "language_model.model.decoder"
    tower_path = "vision_model"
    connector_path = "qformer"
    image_mark = ""
    vlkeb_mark = ""
    single = "BLIP-2 puts one before its text"

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        if not model.config.use_decoder_only_language_model:
            raise UnsupportedModel(
                "this BLIP-2 has an encoder-decoder text model: use one with OPT"
            )
        if model.config.image_token_id is None:
            raise UnsupportedModel(
                "this BLIP-2 has no image token: use a newer revision of the checkpoint"
            )
        super().__init__(model, processor, prompt_format)

    def place(self, ids: list[int], counts: list[int]) -> list[int]:
        """The image tokens, then the text."""
        self.check_placeholders(ids, 0)
        return [*[self.image_token_id] * sum(counts), *ids]

    def picture(self, images: Sequence[Image]) -> Picture:
        """The pixels; every image takes as many tokens as the Q-Former has queries."""
        inputs = self.processor.image_processor(images=list(images), return_tensors="pt")
        return dict(inputs), [self.model.config.num_query_tokens] * len(images)

    def join(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The pixels of all images. BLIP-2 always asks for some: without any it gets a blank one,
        unread.
        """
        size = self.model.config.vision_config.image_size
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return super().join(parts) or {"pixel_values": torch.zeros(1, 3, height, width)}
