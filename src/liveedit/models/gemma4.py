"""Gemma 4 (Google, 2026): upper layers share keys and values of lower ones, and may read the embeddings again."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from liveedit.errors import UnsupportedModel
from liveedit.models.batch import Batch, HiddenBatch
from liveedit.models.detours import mine
from liveedit.models.generic import Generic
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM

__all__ = ["Gemma4", "Gemma4Unified"]

EMBEDDED = "inputs_embeds"
SHARED = "shared_kv_states"


class Gemma4Unified(Generic):
    """Keys and values that layers above read of layers below are kept beside the hidden states (B, T, 2, heads, …).

    There are none in the larger models. Of each type of layers, with a sliding window or without, the last layer with
    keys and values of its own hands them to those above.
    """

    @contextmanager
    def patched(self, patch: Patch) -> Iterator[VLM]:
        """See :meth:`VLM.patched`; all layers see all tokens, where the model would spare some all but the last."""
        with super().patched(patch), self.decoder.register_forward_pre_hook(whole, with_kwargs=True):
            yield self

    def hidden(self, batch: Batch, layer: int) -> HiddenBatch:
        """See :meth:`VLM.hidden`; keeps the keys and values that a layer above reads of those up to it."""
        found: dict[str, tuple[Tensor, Tensor]] = {}

        def starts(_module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal found
            found = kwargs[SHARED]  # which the layers fill

        with self.layers[0].register_forward_pre_hook(mine(starts), with_kwargs=True):
            hidden = super().hidden(batch, layer)
        above: list[Any] = [module.self_attn for module in self.layers[layer + 1 :]]
        read = {attention.layer_type for attention in above if attention.is_kv_shared_layer}
        for name in sorted(read & set(found)):
            hidden.extra[f"{SHARED}.{name}"] = torch.stack(found[name]).permute(1, 3, 0, 2, 4).to(self.device)
        return hidden

    def decode(self, embedded: Tensor, hidden: HiddenBatch) -> Tensor:
        """The decoder's last states (B, T, D), given keys and values of the layers that do not run."""
        extra = dict(hidden.extra)
        names = [name for name in extra if name.startswith(SHARED)]
        kept = {name.removeprefix(f"{SHARED}."): extra.pop(name).permute(2, 0, 3, 1, 4).unbind() for name in names}

        def starts(_module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kwargs[SHARED].update(kept)

        with self.layers[0].register_forward_pre_hook(mine(starts), with_kwargs=True):
            return super().decode(embedded, replace(hidden, extra=extra))


class Gemma4(Gemma4Unified):
    """The embeddings are kept, too: in the smaller models every layer reads a projection of them again."""

    def check_prefix(self) -> None:
        """Raise :class:`UnsupportedModel`: every layer reads the tokens again, and vectors have none."""
        name = self.model.config.model_type
        raise UnsupportedModel(f"every layer of {name} reads the tokens: no vectors can stand before a text")

    def extra(self, batch: Batch, kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """The embeddings, besides what the generic family keeps."""
        return {EMBEDDED: kwargs[EMBEDDED], **super().extra(batch, kwargs)}

    def decode(self, embedded: Tensor, hidden: HiddenBatch) -> Tensor:
        """The decoder's last states (B, T, D), over the embeddings that the batch began with."""
        extra = dict(hidden.extra)
        kept = extra.pop(EMBEDDED)
        return super().decode(embedded if self.skipped < 0 else kept, replace(hidden, extra=extra))


def whole(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Before the decoder: have no layer leave out tokens whose logits are not wanted."""
    return args, {name: value for name, value in kwargs.items() if name != "logits_to_keep"}
