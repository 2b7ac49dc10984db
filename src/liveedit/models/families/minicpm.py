"""MiniCPM-V 4.6, MiniCPM-V 4.7 and MiniCPM-OCR (OpenBMB).

The text decoder is given the prompt with a resampled image in place of its placeholder. Images keep
their own shapes: the processor concatenates the patches of all images along the width, into one
long strip. So rows of a batch are joined along the last axis, not the first.
"""

import torch
from torch import Tensor

from liveedit.models.families.generic import Generic

__all__ = ["MiniCPMV"]


class MiniCPMV(Generic):
    """MiniCPM-V: ``pixel_values`` of all images follow one another along the last axis."""

    def join(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the pixels (1, 3, P, sum of widths) and the sizes (n, …) of all images."""
        if not parts:
            return {}
        pixels = torch.cat([part["pixel_values"] for part in parts], -1)
        sizes = [without_pixels(part) for part in parts]
        return {"pixel_values": pixels, **super().join(sizes)}


def without_pixels(part: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs of an image except for its pixels."""
    return {name: value for name, value in part.items() if name != "pixel_values"}
