"""Gemma 3n (Google, 2025): four states of every token side by side (AltUp), and what Gemma 4's smaller models share."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from liveedit.models.batch import Batch, HiddenBatch
from liveedit.models.gemma4 import Gemma4
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

    @contextmanager
    def bypassed(self, layer: int, hidden: Tensor) -> Iterator[None]:
        """Have the decoder's layers do nothing up to ``layer``, which puts out ``hidden`` (B, T, 4 · D) as a stack."""
        with super().bypassed(layer, hidden if layer < 0 else in_a_stack(hidden, self.hidden_size)):
            yield
