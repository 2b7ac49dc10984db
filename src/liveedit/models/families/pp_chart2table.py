"""PP-Chart2Table (PaddlePaddle, 2025): GOT-OCR 2 trained to turn charts into tables.

The text decoder is given a fixed prompt with the image, one token per block of 4 × 4 patches,
before the question. The published chat template has one question written into it ("Chart to
table"); here the query's own prompt takes its place. The processor expects every image token in the
text already.
"""

from collections.abc import Sequence
from typing import Any

from liveedit.models.encoder import ImageInputs, nested
from liveedit.models.families.generic import Generic
from liveedit.types import Query

__all__ = ["PPChart2Table"]

CHAT = (
    "<|im_start|>system\n"
    "You should follow the instructions carefully and explain your answers in detail.<|im_end|>"
    "<|im_start|>user\n{}<|im_end|><|im_start|>assistant\n"
)
"""The published prompt, without the image and the question."""


class PPChart2Table(Generic):
    """PP-Chart2Table: the query's prompt in the published template; one image per prompt."""

    single = "its prompt holds one"

    def find_placeholder(self) -> str:
        """Return the image token, which the processor does not name."""
        return str(self.tokenizer.convert_ids_to_tokens(self.image_token_id))

    def marks(self, count: int) -> str:
        """Return the text that stands before a prompt with ``count`` images."""
        return f"<img>{self.placeholder}</img>\n" * count

    def render(self, query: Query) -> str:
        """Return the text up to the answer, with one placeholder for the image."""
        text = f"{self.marks(len(query.images))}{query.prompt.rstrip()}"
        return CHAT.format(text) if self.prompt_format == "chat" else text

    def processed(self, query: Query) -> dict[str, Any]:
        """Return the processor's output for the prompt with all image tokens written out."""
        text = self.render(query).replace(self.placeholder, self.image_text)
        return dict(self.processor(images=nested(query.images), text=[text], return_tensors="pt"))

    def process_images(self, images: Sequence[Any]) -> ImageInputs:
        """Return the pixels (1, 3, H, W), and the text that represents the image."""
        inputs = self.processor.image_processor(images=list(images), return_tensors="pt")
        return dict(inputs), [self.image_text]

    @property
    def image_text(self) -> str:
        """All image tokens of one image as text, one per block of 4 × 4 patches."""
        vision = self.model.config.vision_config
        edge = int(vision.image_size) // int(vision.patch_size) // 4
        return self.placeholder * (edge * edge)
