"""PerceptionLM (Cho et al., NeurIPS 2025): an image is a thumbnail and as many tiles as it needs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from liveedit.models.encoder import Picture, nested
from liveedit.models.families.generic import Generic
from liveedit.types import Query

__all__ = ["PerceptionLM"]


class PerceptionLM(Generic):
    """The tiles of all images follow one another: the model takes the images apart in any case.

    Its processor makes one tensor of several images only where all have the same number of tiles.
    """

    def picture(self, images: Sequence[Any]) -> Picture:
        """The tiles (1, n, 3, H, W) of all images, and the text that stands for each image."""
        made = self.processor.image_processor(list(images))
        texts = [self.processor.replace_image_token(made, place) for place in range(len(images))]
        return tiles(made), texts

    def join(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tiles (1, n, 3, H, W) of all rows."""
        return tiles({"pixel_values": [part["pixel_values"][0] for part in parts]}) if parts else {}

    def processed(self, query: Query) -> dict[str, Any]:
        """What the processor makes of the query's prompt, before it puts images into one tensor."""
        text = self.render(query)
        made = self.processor(
            images=nested(query.images), text=[text], add_special_tokens=not self.begun(text)
        )
        ids = {name: torch.tensor(made[name]) for name in ("input_ids", "attention_mask")}
        return ids | (tiles(made) if query.images else {})


def tiles(made: Any) -> dict[str, Tensor]:
    """The tiles (1, n, 3, H, W) of all images, from those of each (m, 3, H, W)."""
    return {"pixel_values": torch.cat(list(made["pixel_values"]))[None]}
