"""Qwen2-VL (Wang et al., 2024): as many image tokens as the image is large, 3-D rotary positions."""

from typing import Any

import torch
import transformers
from torch import Tensor

from liveedit.models.batch import Spans
from liveedit.models.vlm import VLM

__all__ = ["Qwen2VL", "Qwen2VLProcessor"]


class Qwen2VLProcessor(transformers.Qwen2VLProcessor):  # type: ignore[misc]
    """The processor without its video half, which alone would need torchvision.

    It bears the name of the class it stands for because ``save_pretrained`` writes that name into
    the checkpoint.
    """

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)


class Qwen2VL(VLM):
    """The image stands between two tokens of its own, which count as text."""

    tower_path = ""
    connector_path = "model.visual.merger"
    image_mark = "<|vision_start|><|image_pad|><|vision_end|>"

    @classmethod
    def load_processor(cls, source: str) -> Any:
        """The processor of a checkpoint, without its video half."""
        return Qwen2VLProcessor.from_pretrained(source)

    def token_kinds(self, input_ids: Tensor, spans: list[Spans]) -> dict[str, Tensor]:  # noqa: ARG002
        """1 for the tokens of an image, whose positions go in three directions."""
        return {
            "mm_token_type_ids": torch.tensor(
                self.processor.create_mm_token_type_ids(input_ids.tolist())
            )
        }
