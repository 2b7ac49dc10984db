"""Fuyu (Adept, 2023): no vision tower; rows of patches before BOS and prompt, and a token that
begins the answer.
"""

from collections.abc import Sequence
from typing import Any

from liveedit.errors import BadInput
from liveedit.models.encoder import Picture, PromptFormat, nested
from liveedit.models.families.generic import Generic
from liveedit.types import Query

__all__ = ["Fuyu"]

BOS, ANSWER = "<s>", "<0x04>"
"""What the processor writes after an image, and after the prompt that follows it."""


class Fuyu(Generic):
    """The processor puts the image before the text, and reads the two apart; no template for chats."""

    single = "Fuyu puts one before its text"

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        if prompt_format == "chat":
            raise BadInput("Fuyu answers single prompts: use the prompt format 'raw'")
        super().__init__(model, processor, prompt_format or "raw")

    def marks(self, count: int) -> str:
        """The placeholder of each image."""
        return self.placeholder * count

    def render(self, query: Query) -> str:
        """What the processor makes of the prompt, with one placeholder for the image."""
        prompt = query.prompt.rstrip()
        return f"{self.placeholder}{prompt}{ANSWER}" if query.images else prompt

    def processed(self, query: Query) -> dict[str, Any]:
        """What the processor, which puts the image and the answer's first token itself, makes of
        the query's prompt.
        """
        options = {"return_legacy_image_output": False, "return_tensors": "pt"}
        return dict(
            self.processor(images=nested(query.images), text=[query.prompt.rstrip()], **options)
        )

    def picture(self, images: Sequence[Any]) -> Picture:
        """The patches of the image, and the text that stands for it: its rows, and BOS."""
        options = {"return_legacy_image_output": False, "return_text_replacement_offsets": True}
        made = self.processor(images=list(images), text=[""], return_tensors="pt", **options)
        (replaced,) = made["text_replacement_offsets"]
        return {"pixel_values": made["pixel_values"]}, [each["replacement"] for each in replaced]

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of rendered texts; those of an image and of what follows it apart, as in the
        processor.
        """
        return [
            self.pictured(text) if self.placeholder in text else self.ids(text) for text in texts
        ]

    def ids(self, text: str, **options: Any) -> list[int]:
        """The tokenizer's token ids of a text."""
        ids: list[int] = self.tokenizer(text, **options)["input_ids"]
        return ids

    def pictured(self, text: str) -> list[int]:
        """Token ids of a text with an image, without the blank that the tokenizer puts before the
        image.
        """
        rows, bos, rest = text.partition(BOS)
        _, *image = self.ids(rows + bos, add_special_tokens=False)
        return [*image, *self.ids(rest, add_special_tokens=False)]
