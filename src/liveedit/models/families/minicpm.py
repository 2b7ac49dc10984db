"""MiniCPM-V 4.6 and later (OpenBMB): images of any size, their patches laid end to end along the
last axis.
"""

import torch
from torch import Tensor

from liveedit.models.families.generic import Generic

__all__ = ["MiniCPMV"]


class MiniCPMV(Generic):
    """The pixels of all images follow one another along the width, not along the first axis."""

    def join(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The pixels (1, 3, P, sum of widths) and sizes of all images."""
        if not parts:
            return {}
        pixels = torch.cat([part["pixel_values"] for part in parts], -1)
        rest = [
            {name: value for name, value in part.items() if name != "pixel_values"}
            for part in parts
        ]
        return {"pixel_values": pixels, **super().join(rest)}
