"""Gemma 3n (Google, 2025).

The text decoder is given the prompt with the image in place of its placeholder. AltUp (Baykal et
al., NeurIPS 2023) gives every token four hidden states: layers read and return a stack of them, (4,
B, T, D). Outside the model they stand side by side, (B, T, 4 · D), so that editors read and change
one vector per token. Keys, values and embeddings are shared as in Gemma 4.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from liveedit.models.batch import Batch, HiddenBatch
from liveedit.models.families.kv_sharing import PerLayerEmbeddings
from liveedit.models.patch import in_a_stack, side_by_side

__all__ = ["Gemma3n"]


class Gemma3n(PerLayerEmbeddings):
    """Gemma 3n: hidden states of a token are 4 · D wide."""

    @property
    def state_size(self) -> int:
        """Width of all states of a token together, 4 · D."""
        return int(self.model.config.get_text_config().altup_num_inputs * self.hidden_size)

    def hidden(self, batch: Batch, layer: int) -> HiddenBatch:
        """Return what :meth:`VLM.hidden` does, (B, T, 4 · D), with the positions (B, T).

        The kept keys are rotated already, so the queries of a resumed row need its old positions.
        """
        found = super().hidden(batch, layer)
        batch.position_ids = found.positions(torch.Size())
        return replace(found, hidden=side_by_side(found.hidden), position_ids=batch.position_ids)

    def stand_in(self, number: int, hidden: HiddenBatch, given: dict[str, Any]) -> Tensor:
        """Return the kept states as the stack (4, B, T, D) that layers read."""
        return in_a_stack(super().stand_in(number, hidden, given), self.hidden_size)
