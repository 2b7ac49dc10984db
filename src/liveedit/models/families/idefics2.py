"""Idefics2 (Laurençon et al., "What matters when building vision-language models?", NeurIPS 2024).

The text decoder is given the prompt with the image in place of its placeholder: as many tokens as
the resampler has latents, between two marks, once for each part that an image is cut into. The
processor does not report the tokens that it writes for an image. Adjacent images share the mark
between them, and a space stands between an image and a word.
"""

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from liveedit.models.encoder import ImageInputs
from liveedit.models.families.generic import Generic
from liveedit.types import Query

__all__ = ["Idefics2"]


class Idefics2(Generic):
    """Idefics2: writes the image tokens and their marks as its processor does."""

    def render(self, query: Query) -> str:
        """Return the text, with a space between an image and a word that follows it."""
        before_word = rf"{re.escape(self.placeholder)}(?=[^\s<])"
        return re.sub(before_word, f"{self.placeholder} ", super().render(query))

    def process_images(self, images: Sequence[Any]) -> ImageInputs:
        """Return the pixels (1, n · parts, 3, H, W), and the text that represents each image."""
        inputs: dict[str, Tensor] = dict(
            self.processor.image_processor([list(images)], return_tensors="pt")
        )
        mark = self.processor.fake_image_token
        parts = inputs["pixel_values"].shape[1] // len(images)
        part = mark + self.placeholder * self.processor.image_seq_len
        return inputs, [part * parts + mark] * len(images)

    def expand(self, text: str, expansions: Sequence[str]) -> str:
        """Return the text with all image tokens; adjacent images share the mark between them."""
        mark = self.processor.fake_image_token
        return super().expand(text, expansions).replace(mark * 2, mark)
