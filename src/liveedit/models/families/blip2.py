"""BLIP-2 (Li et al., ICML 2023, arXiv 2301.12597) with a decoder-only language model, OPT.

The text decoder is given the image first: one token for each query of the Q-Former, projected to
the decoder's width. BOS and the prompt follow. Rendered text therefore holds no placeholder; the
image tokens are put before all of it. Without an image the model still needs pixels, which it
leaves unread.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from liveedit.errors import UnsupportedModel
from liveedit.models.encoder import ImageInputs, PromptFormat
from liveedit.models.vlm import VLM

__all__ = ["Blip2"]


class Blip2(VLM):
    """BLIP-2: image tokens, BOS, prompt; one image per prompt.

    Raises :class:`UnsupportedModel` for an encoder-decoder language model (Flan-T5), which has no
    single stack of layers, and for a checkpoint so old that its config names no image token.
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

    def expand_image_tokens(self, ids: list[int], counts: list[int]) -> list[int]:
        """Put the image tokens before the token ids of the text; ``counts`` says how many."""
        self.check_placeholders(ids, 0)
        return [*[self.image_token_id] * sum(counts), *ids]

    def process_images(self, images: Sequence[Image]) -> ImageInputs:
        """Return the pixels (n, 3, H, W) and, for each image, the number of Q-Former queries."""
        inputs = self.processor.image_processor(images=list(images), return_tensors="pt")
        return dict(inputs), [self.model.config.num_query_tokens] * len(images)

    def join(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the pixels (n, 3, H, W) of all images; those of a blank image if there is none."""
        joined = super().join(parts)
        if joined:
            return joined
        size = self.model.config.vision_config.image_size
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return {"pixel_values": torch.zeros(1, 3, height, width)}
