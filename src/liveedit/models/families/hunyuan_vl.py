"""HunyuanVL and HunyuanOCR (Tencent, 2025): positions of four parts, one of which numbers the
images of a text.

A departure from the code in transformers, which numbers the images through all rows of a batch:
here each row's begin at 0, so that its positions do not depend on the rows before it.
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
    """The model's own positions, row by row; the processor wants marks around the placeholder."""

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        own = type(model.base_model).get_rope_index.__get__(model.base_model)
        model.base_model.get_rope_index = partial(by_rows, own)
        super().__init__(model, processor, prompt_format)

    def find_mark(self) -> str:
        """The placeholder between the marks of an image's start and end."""
        return (
            f"{self.processor.image_start_token}{self.placeholder}{self.processor.image_end_token}"
        )


def by_rows(
    positions: Callable[..., tuple[Tensor, Tensor]],
    input_ids: Tensor,
    mm_token_type_ids: Tensor,
    image_grid_thw: Tensor,
    attention_mask: Tensor,
) -> tuple[Tensor, Tensor]:
    """The positions (4, B, T), and (B, 1) how far they are ahead of the tokens at the end, each
    row's by itself.
    """
    pictured = (mm_token_type_ids == 1).long()
    begun = F.pad(pictured, (1, 0)).diff() == 1
    grids = torch.split(image_grid_thw, begun.sum(1).tolist())
    rows = zip(input_ids, mm_token_type_ids, grids, attention_mask, strict=True)
    made = [positions(ids[None], kinds[None], grid, mask[None]) for ids, kinds, grid, mask in rows]
    return torch.cat([one for one, _ in made], 1), torch.cat([ahead for _, ahead in made])
