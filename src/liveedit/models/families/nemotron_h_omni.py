"""Nemotron 3 Nano Omni (NVIDIA, 2026), a hybrid of attention, Mamba and mixture-of-experts layers.

The text decoder is given the prompt with the image in place of its placeholder. The processor does
not report the text that it writes for an image, so the image processor is called first and the
processor is then asked for that text.
"""

from collections.abc import Sequence
from typing import Any

from liveedit.models.encoder import ImageInputs
from liveedit.models.families.generic import Generic

__all__ = ["NemotronHOmni"]


class NemotronHOmni(Generic):
    """Nemotron 3 Nano Omni: image processor and processor are called one after the other."""

    def process_images(self, images: Sequence[Any]) -> ImageInputs:
        """Return the patches of the images, and the text that the processor writes for each."""
        inputs = dict(self.processor.image_processor(images=list(images), return_tensors="pt"))
        indices = range(len(images))
        return inputs, [self.processor.replace_image_token(inputs, index) for index in indices]
