"""PP-Chart2Table (PaddlePaddle, 2025): GOT-OCR 2 trained on one question; its prompt holds every
image token.
"""

from collections.abc import Sequence
from typing import Any

from liveedit.models.encoder import Picture, nested
from liveedit.models.families.generic import Generic
from liveedit.types import Query

__all__ = ["PPChart2Table"]

CHAT = (
    "<|im_start|>system\nYou should follow the instructions carefully and explain your answers in detail.<|im_end|>"
    "<|im_start|>user\n{}<|im_end|><|im_start|>assistant\n"
)
"""The published prompt, but for the image and its one question, "Chart to table"."""


class PPChart2Table(Generic):
    """The published template leaves out what is asked: the prompt of the query is put in its place
    here.
    """

    single = "its prompt holds one"

    def find_placeholder(self) -> str:
        """The token that stands for a piece of the image."""
        return str(self.tokenizer.convert_ids_to_tokens(self.image_token_id))

    def marks(self, count: int) -> str:
        """What stands before a prompt with an image."""
        return f"<img>{self.placeholder}</img>\n" * count

    def render(self, query: Query) -> str:
        """The text, with one placeholder for the image."""
        text = f"{self.marks(len(query.images))}{query.prompt.rstrip()}"
        return CHAT.format(text) if self.prompt_format == "chat" else text

    def processed(self, query: Query) -> dict[str, Any]:
        """What the processor makes of the prompt with every image token in it."""
        text = self.render(query).replace(self.placeholder, self.run)
        return dict(self.processor(images=nested(query.images), text=[text], return_tensors="pt"))

    def picture(self, images: Sequence[Any]) -> Picture:
        """The pixels, and all tokens of the image."""
        return dict(self.processor.image_processor(images=list(images), return_tensors="pt")), [
            self.run
        ]

    @property
    def run(self) -> str:
        """The tokens of an image, one for four by four patches."""
        vision = self.model.config.vision_config
        edge = int(vision.image_size) // int(vision.patch_size) // 4
        return self.placeholder * (edge * edge)
