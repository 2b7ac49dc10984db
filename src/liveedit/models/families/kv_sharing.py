"""Base classes of Gemma 3n and Gemma 4, whose upper layers read more than the layer below them.

Several of these models have two things in common, and no other model in transformers has them:

- *KV sharing.* The upper layers have no key and value projections. They attend to the keys and
  values that the last lower layer of the same attention type (sliding window or full) computed.
- *Per-layer embeddings.* Every layer reads a projection of the token embeddings again.

``resume`` does not run the lower layers, so their other outputs have to be kept beside the hidden
states: keys and values by :class:`SharedKeyValues`, the embeddings by :class:`PerLayerEmbeddings`.
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

__all__ = ["PerLayerEmbeddings", "SharedKeyValues"]

SHARED = "shared_kv_states"
"""The argument of every layer that holds (keys, values), each (B, heads, T, d), by attention type.

The layers fill it as they run.
"""
KEPT = f"{CARRIED}{SHARED}."
"""The prefix of its entries in :attr:`HiddenBatch.extra`; the attention type follows."""
EMBEDDED = "inputs_embeds"
"""The embeddings (B, T, D) in :attr:`HiddenBatch.extra`."""


class SharedKeyValues(Generic):
    """Models whose upper layers may attend to keys and values of lower layers.

    The larger of these models share none; then nothing is kept.
    """

    def before_decoder(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of the decoder, under a patch without ``logits_to_keep``.

        With it the layers that share keys would see only the last tokens of a prompt, and a patch
        has to see all of them.
        """
        if not self.patches:
            return dict(given)
        return {name: value for name, value in given.items() if name != "logits_to_keep"}

    def watched(self, layer: int) -> Sequence[int]:
        """Return layer 0, if it runs: it is given the dictionary that the other layers fill."""
        return range(min(layer + 1, 1))

    def carry(self, layer: int, taken: Mapping[int, Inputs]) -> dict[str, Tensor]:
        """Return keys and values of layers up to ``layer`` that layers above it attend to.

        By :data:`KEPT` and the attention type, keys and values stacked (B, T, 2, heads, d).
        """
        above: list[Any] = [module.self_attn for module in self.layers[layer + 1 :]]
        read = {attention.layer_type for attention in above if attention.is_kv_shared_layer}
        computed = taken[0][1][SHARED] if taken else {}
        kept = {}
        for attention_type in sorted(read & set(computed)):
            states = torch.stack(computed[attention_type])  # (2, B, heads, T, d)
            kept[f"{KEPT}{attention_type}"] = states.permute(1, 3, 0, 2, 4).to(self.device)
        return kept

    def stand_in(self, number: int, hidden: HiddenBatch, given: dict[str, Any]) -> Tensor:
        """Return the kept hidden states; put kept keys and values where the layers find them."""
        for name, states in hidden.extra.items():
            if name.startswith(KEPT):
                key_values = states.permute(2, 0, 3, 1, 4).unbind()
                given[SHARED][name.removeprefix(KEPT)] = key_values
        return super().stand_in(number, hidden, given)


class PerLayerEmbeddings(SharedKeyValues):
    """Models in which every layer also reads a projection of the token embeddings."""

    def check_prefix(self) -> None:
        """Raise :class:`UnsupportedModel`: vectors before a text have no token embeddings."""
        name = self.model.config.model_type
        raise UnsupportedModel(
            f"every layer of {name} reads the tokens: no vectors can stand before a text"
        )

    def extra(self, batch: Batch, kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """Return the embeddings (B, T, D) beside what the generic family keeps."""
        return {EMBEDDED: kwargs[EMBEDDED], **super().extra(batch, kwargs)}

    def decode(self, embedded: Tensor, hidden: HiddenBatch) -> Tensor:
        """Return the decoder's last states (B, T, D), computed over the kept embeddings.

        ``embedded`` is used only if the decoder is resumed at its embeddings.
        """
        extra = dict(hidden.extra)
        kept = extra.pop(EMBEDDED)
        at_embeddings = self.skipped < 0
        start = embedded if at_embeddings else kept
        return super().decode(start, replace(hidden, extra=extra))
