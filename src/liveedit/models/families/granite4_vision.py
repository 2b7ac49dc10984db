"""Granite 4 Vision (IBM, 2026).

The text decoder is given the prompt with zeros in place of the image. Before several of its layers
it adds projected features of the image to the hidden states; each of these layers has its own
projector (DeepStack). Here these features are kept with each row, so that ``resume`` can add them
again. The first layer's features count as part of the embeddings. The decoder scales embeddings by
a constant before it adds the image.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from liveedit.models.batch import Batch, HiddenBatch
from liveedit.models.families.generic import Generic
from liveedit.models.vlm import EMBEDDINGS

__all__ = ["Granite4Vision"]

MASK = "vision_mask"
"""The decoder's argument that marks the tokens of images, boolean (B, T, 1) or (B, T, D)."""
FEATURES = "deepstack_features"
"""The decoder's argument with the features (n, D) of all image tokens, by layer number.

In :attr:`HiddenBatch.extra` they are spread over the tokens: (B, T, layers, D), 0 for text.
"""


class Granite4Vision(Generic):
    """Granite 4 Vision: features of the image for each layer are kept with the rows."""

    def find_vision(self) -> tuple[str, str]:
        """Return the paths of the vision tower and of the projectors, one for each layer."""
        return "model.vision_tower", "model.layerwise_projectors"

    def hidden(self, batch: Batch, layer: int) -> HiddenBatch:
        """Return what :meth:`VLM.hidden` does, (B, T, D).

        At the embeddings, the first layer's features are added to them and taken from ``extra``.
        """
        found = super().hidden(batch, layer)
        if layer != EMBEDDINGS or FEATURES not in found.extra:
            return found
        features = found.extra[FEATURES].clone()
        first = features[:, :, 0] / self.decoder.embedding_multiplier
        features[:, :, 0] = 0
        return replace(found, hidden=found.hidden + first, extra=found.extra | {FEATURES: features})

    def extra(self, batch: Batch, kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """Return the features (B, T, layers, D) that each layer adds, beside what Generic keeps."""
        kept = super().extra(batch, kwargs)
        mask = kept.pop(MASK, None)
        features = kwargs.get(FEATURES)
        if mask is None or not features:
            return kept
        zeros = torch.zeros(*batch.labels.shape, self.hidden_size).to(kwargs["inputs_embeds"])
        spread = []
        for layer in range(self.num_layers):
            found = features.get(layer)
            spread.append(zeros if found is None else zeros.masked_scatter(mask, found.to(zeros)))
        kept[FEATURES] = torch.stack(spread, 2)
        return kept

    def decode(self, embedded: Tensor, hidden: HiddenBatch) -> Tensor:
        """Return the decoder's last states (B, T, D), given the kept features of the image.

        Every token counts as an image token here: the features of text are 0.
        """
        extra: dict[str, Any] = dict(hidden.extra)
        kept = extra.pop(FEATURES, None)
        if kept is not None:
            extra[MASK] = torch.ones_like(hidden.labels, dtype=torch.bool)[..., None]
            by_layer = enumerate(kept.unbind(2))
            extra[FEATURES] = {layer: features.flatten(0, 1) for layer, features in by_layer}
        return super().decode(embedded, replace(hidden, extra=extra))
