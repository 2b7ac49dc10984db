"""Fuyu (Adept, "Fuyu-8B", 2023).

The text decoder is given raw patches: a linear layer maps each to one token, a newline token ends
every row of patches, and BOS, the prompt and a token that begins the answer follow. There is no
vision tower. The processor tokenizes image and text separately, and has no chat template.
"""

from collections.abc import Sequence
from typing import Any

from liveedit.errors import BadInput
from liveedit.models.encoder import ImageInputs, PromptFormat, nested
from liveedit.models.families.generic import Generic
from liveedit.types import Query

__all__ = ["Fuyu"]

BOS = "<s>"
"""The token that the processor writes after the image."""
ANSWER = "<0x04>"
"""The token that the processor writes after a prompt with an image, to begin the answer."""


class Fuyu(Generic):
    """Fuyu: image, BOS, prompt and the token that begins the answer; one image per prompt."""

    single = "Fuyu puts one before its text"

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        if prompt_format == "chat":
            raise BadInput("Fuyu has no chat template: use the prompt format 'raw'")
        super().__init__(model, processor, prompt_format or "raw")

    def marks(self, count: int) -> str:
        """Return ``count`` placeholders, without the line break that other models want."""
        return self.placeholder * count

    def render(self, query: Query) -> str:
        """Return the text up to the answer, with one placeholder for the image."""
        prompt = query.prompt.rstrip()
        return f"{self.placeholder}{prompt}{ANSWER}" if query.images else prompt

    def processed(self, query: Query) -> dict[str, Any]:
        """Return the processor's output; it writes the image and the answer token by itself."""
        return dict(
            self.processor(
                images=nested(query.images),
                text=[query.prompt.rstrip()],
                return_legacy_image_output=False,
                return_tensors="pt",
            )
        )

    def process_images(self, images: Sequence[Any]) -> ImageInputs:
        """Return the patches, and the text that represents each image, BOS included."""
        made = self.processor(
            images=list(images),
            text=[""],
            return_tensors="pt",
            return_legacy_image_output=False,
            return_text_replacement_offsets=True,
        )
        (replaced,) = made["text_replacement_offsets"]
        return {"pixel_values": made["pixel_values"]}, [each["replacement"] for each in replaced]

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of rendered texts; image and text are tokenized separately."""
        rows = []
        for text in texts:
            with_image = self.placeholder in text
            rows.append(self.ids_with_image(text) if with_image else self.ids(text))
        return rows

    def ids(self, text: str, **options: Any) -> list[int]:
        """Return the tokenizer's token ids of a text."""
        ids: list[int] = self.tokenizer(text, **options)["input_ids"]
        return ids

    def ids_with_image(self, text: str) -> list[int]:
        """Return the token ids of a text with an image, less the space put before the image."""
        patches, bos, prompt = text.partition(BOS)
        _blank, *image = self.ids(patches + bos, add_special_tokens=False)
        return [*image, *self.ids(prompt, add_special_tokens=False)]
