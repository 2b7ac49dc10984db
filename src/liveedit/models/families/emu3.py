"""Emu3 (BAAI, 2024): images of any size as words of the vocabulary, a row of them after the other."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from liveedit.models.encoder import PromptFormat
from liveedit.models.families.generic import Generic

__all__ = ["Emu3"]


class Emu3(Generic):
    """Each image is turned into words by itself: the processor's padding of images of several sizes
    changes none.
    """

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        model.model.vqmodel.encode = partial(one_by_one, model.model.vqmodel.encode)
        super().__init__(model, processor, prompt_format)

    def find_vision(self) -> tuple[str, str]:
        """What the words of an image are found by; nothing connects it to the decoder."""
        return "model.vqmodel.encoder", ""

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of rendered texts after BOS, which the processor puts there, not the tokenizer."""
        first = [] if self.begun(texts[0]) else [self.tokenizer.bos_token_id]
        return [first + ids for ids in super().token_ids(texts)]


def one_by_one(
    own: Callable[..., Any], pixel_values: Tensor, image_sizes: Tensor, **kwargs: Any
) -> Any:
    """What ``own`` makes of images, each asked for without its padding."""
    alone = [
        own(pixels[None, :, : int(height), : int(width)], size[None], **kwargs)
        for pixels, size in zip(pixel_values, image_sizes, strict=True)
        for height, width in [size]
    ]
    alone[0].image_tokens = [words for each in alone for words in each.image_tokens]
    return alone[0]
