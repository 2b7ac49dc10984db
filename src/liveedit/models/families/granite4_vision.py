"""Granite 4 Vision (IBM, 2026): each of several layers is given features of the image of its own."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from liveedit.models.batch import Batch, HiddenBatch
from liveedit.models.families.generic import Generic
from liveedit.models.vlm import EMBEDDINGS

__all__ = ["Granite4Vision"]

MASK, FEATURES = "vision_mask", "deepstack_features"


class Granite4Vision(Generic):
    """What the layers are given of the image goes with the rows, that of the first layer within the
    embeddings.

    The decoder scales the embeddings before it adds the image to them.
    """

    def find_vision(self) -> tuple[str, str]:
        """The vision tower, and the projectors of its layers."""
        return "model.vision_tower", "model.layerwise_projectors"

    def hidden(self, batch: Batch, layer: int) -> HiddenBatch:
        """See :meth:`VLM.hidden`; where text is embedded, the image's features for the first layer
        are put in.
        """
        found = super().hidden(batch, layer)
        if layer != EMBEDDINGS or FEATURES not in found.extra:
            return found
        features = found.extra[FEATURES].clone()
        first = features[:, :, 0] / self.decoder.embedding_multiplier
        features[:, :, 0] = 0
        return replace(found, hidden=found.hidden + first, extra=found.extra | {FEATURES: features})

    def extra(self, batch: Batch, kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """Of every token what each layer is given of the image (B, T, layers, D), none for words."""
        found = super().extra(batch, kwargs)
        mask, levels = found.pop(MASK, None), kwargs.get(FEATURES)
        if mask is not None and levels:
            empty = torch.zeros(*batch.labels.shape, self.hidden_size).to(kwargs["inputs_embeds"])
            spread = [
                empty.masked_scatter(mask, levels[layer].to(empty)) if layer in levels else empty
                for layer in range(self.num_layers)
            ]
            found[FEATURES] = torch.stack(spread, 2)
        return found

    def decode(self, embedded: Tensor, hidden: HiddenBatch) -> Tensor:
        """The decoder's last states (B, T, D), given what its layers read of the image."""
        extra: dict[str, Any] = dict(hidden.extra)
        if (levels := extra.pop(FEATURES, None)) is not None:
            extra[MASK] = torch.ones_like(hidden.attention_mask, dtype=torch.bool)[..., None]
            extra[FEATURES] = {
                layer: level.flatten(0, 1) for layer, level in enumerate(levels.unbind(2))
            }
        return super().decode(embedded, replace(hidden, extra=extra))
