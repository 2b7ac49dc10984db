"""Inkling 2 (Thinking Machines, 2026).

The text decoder is given the prompt with the image in place of its placeholder. Its layers form
blocks; every layer also attends to the inputs of all blocks begun so far (attention residuals). The
inputs of the blocks that ``resume`` does not run are kept beside the hidden states.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from liveedit.models.batch import HiddenBatch
from liveedit.models.families.generic import Generic
from liveedit.models.vlm import CARRIED, Inputs

__all__ = ["BLOCKS", "Inkling2"]

BLOCKS = f"{CARRIED}block_states"
"""The inputs of the blocks (B, T, blocks, D) in :attr:`HiddenBatch.extra`."""


class Inkling2(Generic):
    """Inkling 2: the inputs of the blocks below are kept with the hidden states."""

    def watched(self, layer: int) -> Sequence[int]:
        """Return the first layers of all blocks, up to ``layer``."""
        modules = enumerate(self.layers[: layer + 1])
        return [number for number, module in modules if module.is_block_boundary]

    def carry(self, layer: int, taken: Mapping[int, Inputs]) -> dict[str, Tensor]:
        """Return the inputs (B, T, blocks, D) of the blocks that begin up to ``layer``."""
        begun = [taken[first][0][0].to(self.device) for first in self.watched(layer)]
        return {BLOCKS: torch.stack(begun, 2)} if begun else {}

    def decode(self, embedded: Tensor, hidden: HiddenBatch) -> Tensor:
        """Return the decoder's last states (B, T, D), started from the input of the first block."""
        begun = hidden.extra.get(BLOCKS)
        return super().decode(embedded if begun is None else begun[:, :, 0], hidden)

    def stand_in(self, number: int, hidden: HiddenBatch, given: dict[str, Any]) -> Tensor:  # noqa: ARG002
        """Return the input of the block that layer ``number`` + 1 begins, else the kept states.

        The decoder collects the inputs of its blocks between layers, so it must see them there.
        """
        first_layers = self.watched(self.skipped)
        above = number + 1
        if above not in first_layers:
            return hidden.hidden
        return hidden.extra[BLOCKS][:, :, first_layers.index(above)]
