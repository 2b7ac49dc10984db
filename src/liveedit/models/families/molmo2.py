"""Molmo 2 (Ai2, 2025).

The text decoder is given the prompt with the image in place of its placeholder; image tokens attend
to one another in both directions. Each image token pools several patches, which are named by their
index among all patches of the batch. A text begins with BOS, or with EOS where there is no BOS.
"""

import torch
from torch import Tensor

from liveedit.models.families.generic import Generic
from liveedit.types import Query

__all__ = ["Molmo2"]

POOLING = "image_token_pooling"
"""The input (n, k) that names the patches each image token pools; negative entries are padding."""


class Molmo2(Generic):
    """Molmo 2: shifts patch indices where rows are joined, and writes the first token of a text."""

    def join(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the inputs of all images, patch indices counted through the whole batch."""
        shifted = []
        patches = 0
        for part in parts:
            pooled = part[POOLING]
            shifted.append(part | {POOLING: torch.where(pooled < 0, pooled, pooled + patches)})
            patches += part["pixel_values"].shape[:2].numel()
        return super().join(shifted)

    def render(self, query: Query) -> str:
        """Return the text with its first token; the template leaves that to the processor."""
        text = super().render(query)
        first = str(self.tokenizer.bos_token or self.tokenizer.eos_token)
        return text if text.startswith(first) else first + text
