"""Inkling 2 (Thinking Machines, 2026): every layer reads again what went into the blocks of layers below it."""

from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor

from liveedit.models.batch import Batch, HiddenBatch
from liveedit.models.detours import always, detour, mine
from liveedit.models.generic import Generic

__all__ = ["Inkling2"]

BLOCKS = "block_states"


class Inkling2(Generic):
    """What went into the first layer of each block below is kept beside the hidden states (B, T, blocks, D)."""

    def hidden(self, batch: Batch, layer: int) -> HiddenBatch:
        """See :meth:`VLM.hidden`; keeps what went into the blocks up to the layer."""
        begun: list[Tensor] = []
        with ExitStack() as undo:
            for first in self.begins(layer):
                module = self.layers[first]
                hook = mine(lambda _module, args: begun.append(args[0]))
                undo.callback(module.register_forward_pre_hook(hook).remove)
            hidden = super().hidden(batch, layer)
        if begun:
            hidden.extra[BLOCKS] = torch.stack([states.to(self.device) for states in begun], 2)
        return hidden

    def decode(self, embedded: Tensor, hidden: HiddenBatch) -> Tensor:
        """The decoder's last states (B, T, D); the layers that do not run put out what the blocks began with."""
        extra = dict(hidden.extra)
        begun = extra.pop(BLOCKS, None)
        with ExitStack() as undo:
            if begun is not None:
                embedded, *later = begun.unbind(2)
                for first, states in zip(self.begins(self.skipped)[1:], later, strict=True):
                    undo.enter_context(detour(self.layers[first - 1], always(states)))
            return super().decode(embedded, replace(hidden, extra=extra))

    def begins(self, layer: int) -> list[int]:
        """The first layers of blocks, up to ``layer``."""
        return [number for number, module in enumerate(self.layers[: layer + 1]) if module.is_block_boundary]
