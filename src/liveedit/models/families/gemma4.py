"""Gemma 4 (Google, 2026): upper layers share keys and values of lower ones, and may read the
embeddings again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from liveedit.errors import UnsupportedModel
from liveedit.models.batch import Batch, HiddenBatch
from liveedit.models.families.generic import Generic
from liveedit.models.vlm import CARRIED, Inputs

__all__ = ["Gemma4", "Gemma4Unified"]

EMBEDDED = "inputs_embeds"
SHARED = "shared_kv_states"
"""The argument of every layer that holds keys and values for the layers above, by the type of their
attention.
"""
KEPT = f"{CARRIED}{SHARED}."


class Gemma4Unified(Generic):
    """Keys and values that layers above read of layers below are kept beside the hidden states (B,
    T, 2, heads, …).

    There are none in the larger models. Of each type of layers, with a sliding window or without,
    the last layer with keys and values of its own hands them to those above.
    """

    def before_decoder(self, given: dict[str, Any]) -> dict[str, Any]:
        """Under a patch all layers see all tokens, where the model would spare some all but the
        last.
        """
        return {
            name: value
            for name, value in given.items()
            if name != "logits_to_keep" or not self.patches
        }

    def watched(self, layer: int) -> Sequence[int]:
        """The first layer, which is given what the others fill."""
        return range(min(layer + 1, 1))

    def carry(self, layer: int, taken: Mapping[int, Inputs]) -> dict[str, Tensor]:
        """The keys and values that a layer above reads of those up to it."""
        above: list[Any] = [module.self_attn for module in self.layers[layer + 1 :]]
        read = {attention.layer_type for attention in above if attention.is_kv_shared_layer}
        found = taken[0][1][SHARED] if taken else {}
        both = {name: torch.stack(found[name]) for name in sorted(read & set(found))}
        return {
            f"{KEPT}{name}": value.permute(1, 3, 0, 2, 4).to(self.device)
            for name, value in both.items()
        }

    def stand_in(self, number: int, hidden: HiddenBatch, given: dict[str, Any]) -> Tensor:
        """What was put out; keys and values are handed on as the layers that do not run would have."""
        for name, value in hidden.extra.items():
            if name.startswith(KEPT):
                given[SHARED][name.removeprefix(KEPT)] = value.permute(2, 0, 3, 1, 4).unbind()
        return super().stand_in(number, hidden, given)


class Gemma4(Gemma4Unified):
    """The embeddings are kept, too: in the smaller models every layer reads a projection of them
    again.
    """

    def check_prefix(self) -> None:
        """Raise :class:`UnsupportedModel`: every layer reads the tokens again, and vectors have
        none.
        """
        name = self.model.config.model_type
        raise UnsupportedModel(
            f"every layer of {name} reads the tokens: no vectors can stand before a text"
        )

    def extra(self, batch: Batch, kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """The embeddings, besides what the generic family keeps."""
        return {EMBEDDED: kwargs[EMBEDDED], **super().extra(batch, kwargs)}

    def decode(self, embedded: Tensor, hidden: HiddenBatch) -> Tensor:
        """The decoder's last states (B, T, D), over the embeddings that the batch began with."""
        extra = dict(hidden.extra)
        kept = extra.pop(EMBEDDED)
        return super().decode(embedded if self.skipped < 0 else kept, replace(hidden, extra=extra))
