"""PerceptionLM (Cho et al., NeurIPS 2025, arXiv 2504.13180).

The text decoder is given the prompt with the image in place of its placeholder: a thumbnail and as
many tiles as the image needs. The processor makes one tensor of several images only if all have the
same number of tiles. Here the tiles of all images are concatenated, which the model accepts because
it processes every tile by itself.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from liveedit.models.encoder import ImageInputs, nested
from liveedit.models.families.generic import Generic
from liveedit.types import Query

__all__ = ["PerceptionLM"]


class PerceptionLM(Generic):
    """PerceptionLM: the tiles of all images are concatenated into one tensor."""

    def process_images(self, images: Sequence[Any]) -> ImageInputs:
        """Return the tiles (1, n, 3, H, W) of all images, and the text that represents each."""
        made = self.processor.image_processor(list(images))
        indices = range(len(images))
        texts = [self.processor.replace_image_token(made, index) for index in indices]
        return concatenated_tiles(made["pixel_values"]), texts

    def join(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the tiles (1, n, 3, H, W) of all rows."""
        if not parts:
            return {}
        return concatenated_tiles([part["pixel_values"][0] for part in parts])

    def processed(self, query: Query) -> dict[str, Any]:
        """Return the processor's output for the query, its lists made into tensors."""
        text = self.render(query)
        made = self.processor(
            images=nested(query.images), text=[text], add_special_tokens=not self.begun(text)
        )
        inputs = {name: torch.tensor(made[name]) for name in ("input_ids", "attention_mask")}
        if query.images:
            inputs |= concatenated_tiles(made["pixel_values"])
        return inputs


def concatenated_tiles(images: Any) -> dict[str, Tensor]:
    """Return ``pixel_values`` (1, n, 3, H, W) from the tiles (m, 3, H, W) of each image."""
    return {"pixel_values": torch.cat(list(images))[None]}
