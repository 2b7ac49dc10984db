"""Nemotron 3 Nano Omni (NVIDIA, 2026): its processor does not say what it puts for an image."""

from collections.abc import Sequence
from typing import Any

from liveedit.models.encoder import Picture
from liveedit.models.families.generic import Generic

__all__ = ["NemotronHOmni"]


class NemotronHOmni(Generic):
    """The image processor and the processor are asked one after the other."""

    def picture(self, images: Sequence[Any]) -> Picture:
        """The patches of the images, and the text that the processor puts for each."""
        inputs = dict(self.processor.image_processor(images=list(images), return_tensors="pt"))
        return inputs, [
            self.processor.replace_image_token(inputs, place) for place in range(len(images))
        ]
