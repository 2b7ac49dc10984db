"""Gemma 3n (Google, 2025): four states of every token side by side (AltUp), and what Gemma 4's
smaller models share.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from liveedit.models.batch import Batch, HiddenBatch
from liveedit.models.families.gemma4 import Gemma4
from liveedit.models.patch import in_a_stack, side_by_side

__all__ = ["Gemma3n"]


class Gemma3n(Gemma4):
    """Its layers put out a stack (4, B, T, D), which stands between them as (B, T, 4 · D)."""

    @property
    def state_size(self) -> int:
        """The width of all states of a token together."""
        return int(self.model.config.get_text_config().altup_num_inputs * self.hidden_size)

    def hidden(self, batch: Batch, layer: int) -> HiddenBatch:
        """See :meth:`VLM.hidden`; keeps the positions, too, by which the kept keys are turned."""
        found = super().hidden(batch, layer)
        batch.position_ids = found.positions(torch.Size())
        return replace(found, hidden=side_by_side(found.hidden), position_ids=batch.position_ids)

    def stand_in(self, number: int, hidden: HiddenBatch, given: dict[str, Any]) -> Tensor:
        """What was put out (B, T, 4 · D), as a stack."""
        return in_a_stack(super().stand_in(number, hidden, given), self.hidden_size)
