"""Qwen2-VL (Wang et al., 2024, arXiv 2409.12191).

The text decoder is given the prompt with the image in place of its placeholder, between two marks:
one token per block of 2 × 2 patches, so their number depends on the image's size. Rotary positions
have three parts (time, height, width), which the model computes from the type of each token.

The base class counts the image tokens (``Encoder.process_images``) and expands the placeholder
(``Encoder.expand_image_tokens``).
"""

from typing import Any

import torch
import transformers
from torch import Tensor

from liveedit.models.batch import Spans
from liveedit.models.vlm import VLM

__all__ = ["Qwen2VL", "Qwen2VLProcessor"]


class Qwen2VLProcessor(transformers.Qwen2VLProcessor):  # type: ignore[misc]
    """Qwen2-VL's processor without its part for videos, which alone would need torchvision.

    It keeps the name of its base class because ``save_pretrained`` writes that name into the
    checkpoint.
    """

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)


class Qwen2VL(VLM):
    """Qwen2-VL: the marks around an image count as text; the connector is part of the tower."""

    tower_path = ""
    connector_path = "model.visual.merger"
    image_mark = "<|vision_start|><|image_pad|><|vision_end|>"

    @classmethod
    def load_processor(cls, source: str) -> Any:
        """Load the processor of a checkpoint without its part for videos."""
        return Qwen2VLProcessor.from_pretrained(source)

    def token_kinds(self, input_ids: Tensor, spans: list[Spans]) -> dict[str, Tensor]:  # noqa: ARG002
        """Return ``mm_token_type_ids`` (B, T), 1 for image tokens; positions depend on them."""
        kinds = self.processor.create_mm_token_type_ids(input_ids.tolist())
        return {"mm_token_type_ids": torch.tensor(kinds)}
