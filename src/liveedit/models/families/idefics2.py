"""Idefics2 (Laurençon et al., NeurIPS 2024): image tokens between two marks, where the placeholder
was.
"""

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from liveedit.models.encoder import Picture
from liveedit.models.families.generic import Generic
from liveedit.types import Query

__all__ = ["Idefics2"]


class Idefics2(Generic):
    """Its processor writes the image's tokens into the text without saying which; a blank follows
    the last mark.
    """

    def render(self, query: Query) -> str:
        """The text; as the processor does, with a blank between image and word."""
        return re.sub(
            rf"{re.escape(self.placeholder)}(?=[^\s<])",
            f"{self.placeholder} ",
            super().render(query),
        )

    def picture(self, images: Sequence[Any]) -> Picture:
        """The pixels, and as many image tokens a part of an image as the resampler has latents."""
        inputs: dict[str, Tensor] = dict(
            self.processor.image_processor([list(images)], return_tensors="pt")
        )
        mark, parts = (
            self.processor.fake_image_token,
            inputs["pixel_values"].shape[1] // len(images),
        )
        return inputs, [
            (mark + self.placeholder * self.processor.image_seq_len) * parts + mark
        ] * len(images)

    def expand(self, text: str, expansions: Sequence[str]) -> str:
        """See :meth:`Generic.expand`; images side by side share the mark between them."""
        mark = self.processor.fake_image_token
        return super().expand(text, expansions).replace(mark * 2, mark)
