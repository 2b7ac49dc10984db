"""HunyuanVL and HunyuanOCR (Tencent, 2025).

The text decoder is given the prompt with the image in place of its placeholder, between two marks
that the processor wants to find there. Rotary positions have four parts: the position in the text,
width and height within an image, and the number of the image.

One departure from transformers' code, which numbers the images through all rows of a batch: here
each row counts its images from 0, so that its positions do not depend on the rows before it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from liveedit.models.encoder import PromptFormat
from liveedit.models.families.generic import Generic

__all__ = ["HunYuanVL"]


class HunYuanVL(Generic):
    """HunyuanVL: position ids are computed row by row; marks stand around the placeholder."""

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        get_rope_index = type(model.base_model).get_rope_index.__get__(model.base_model)
        model.base_model.get_rope_index = partial(rope_index_by_row, get_rope_index)
        super().__init__(model, processor, prompt_format)

    def find_mark(self) -> str:
        """Return the placeholder between the marks of an image's start and end."""
        start = self.processor.image_start_token
        end = self.processor.image_end_token
        return f"{start}{self.placeholder}{end}"


def rope_index_by_row(
    get_rope_index: Callable[..., tuple[Tensor, Tensor]],
    input_ids: Tensor,
    mm_token_type_ids: Tensor,
    image_grid_thw: Tensor,
    attention_mask: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return position ids (4, B, T) and the RoPE offset of each row (B, 1), row by row.

    The offset is what has to be added to the number of tokens to get the next position.
    ``image_grid_thw`` (n, 3) holds the grids of the images of all rows, one after the other.
    """
    in_image = (mm_token_type_ids == 1).long()
    image_starts = F.pad(in_image, (1, 0)).diff() == 1
    grids = torch.split(image_grid_thw, image_starts.sum(1).tolist())
    position_ids = []
    offsets = []
    rows = zip(input_ids, mm_token_type_ids, grids, attention_mask, strict=True)
    for ids, kinds, grid, mask in rows:
        positions, offset = get_rope_index(ids[None], kinds[None], grid, mask[None])
        position_ids.append(positions)
        offsets.append(offset)
    return torch.cat(position_ids, 1), torch.cat(offsets)
