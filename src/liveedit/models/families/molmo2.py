"""Molmo 2 (Ai2, 2025): image tokens attend to one another in both directions; a text begins with
BOS or EOS.
"""

import torch
from torch import Tensor

from liveedit.models.families.generic import Generic
from liveedit.types import Query

__all__ = ["Molmo2"]


class Molmo2(Generic):
    """The processor puts the first token before the text itself."""

    def join(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The inputs of all images; what a token pools is counted through all of their patches."""
        counted, patches = [], 0
        for part in parts:
            pooled = part["image_token_pooling"]
            counted.append(
                part | {"image_token_pooling": torch.where(pooled < 0, pooled, pooled + patches)}
            )
            patches += part["pixel_values"].shape[:2].numel()
        return super().join(counted)

    def render(self, query: Query) -> str:
        """The text, begun as the processor begins it."""
        text, first = (
            super().render(query),
            str(self.tokenizer.bos_token or self.tokenizer.eos_token),
        )
        return text if text.startswith(first) else first + text
