"""Inkling 2 (Thinking Machines, 2026): every layer reads again what went into the blocks of layers
below it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from liveedit.models.batch import HiddenBatch
from liveedit.models.families.generic import Generic
from liveedit.models.vlm import CARRIED, Inputs

__all__ = ["Inkling2"]

BLOCKS = f"{CARRIED}block_states"


class Inkling2(Generic):
    """What went into the first layer of each block below is kept beside the hidden states (B, T,
    blocks, D).
    """

    def watched(self, layer: int) -> Sequence[int]:
        """The first layers of blocks, up to ``layer``."""
        return [
            number
            for number, module in enumerate(self.layers[: layer + 1])
            if module.is_block_boundary
        ]

    def carry(self, layer: int, taken: Mapping[int, Inputs]) -> dict[str, Tensor]:
        """What went into the blocks up to the layer."""
        begun = [taken[first][0][0].to(self.device) for first in self.watched(layer)]
        return {BLOCKS: torch.stack(begun, 2)} if begun else {}

    def decode(self, embedded: Tensor, hidden: HiddenBatch) -> Tensor:
        """The decoder's last states (B, T, D), over what went into the first block."""
        begun = hidden.extra.get(BLOCKS)
        return super().decode(embedded if begun is None else begun[:, :, 0], hidden)

    def stand_in(self, number: int, hidden: HiddenBatch, given: dict[str, Any]) -> Tensor:  # noqa: ARG002
        """What the block above began with, if one begins there."""
        begun, above = self.watched(self.skipped), number + 1
        return hidden.extra[BLOCKS][:, :, begun.index(above)] if above in begun else hidden.hidden
