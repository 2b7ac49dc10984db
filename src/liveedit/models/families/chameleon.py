"""Chameleon (Chameleon Team, Meta, 2024, arXiv 2405.09818).

The text decoder is given discrete tokens throughout: a VQ-VAE turns an image into codes that are
entries of the vocabulary. The model looks up these codes inside its own forward pass. Here their
embeddings are put in before the decoder runs, so that whatever enters the first layer can be seen
and changed. A separator token follows the prompt, and codes of images are never answers.
"""

from typing import Any

import torch
from torch import Tensor

from liveedit.models.encoder import nested
from liveedit.models.families.generic import Generic
from liveedit.models.patch import output_embedding
from liveedit.types import Query

__all__ = ["Chameleon"]

IMAGES = "mm_encoder_outputs"
"""The argument of the model that holds what its image encoder computed earlier."""


class Chameleon(Generic):
    """Chameleon: image codes are embedded before the decoder, and masked in the logits."""

    def before_model(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments with ``inputs_embeds`` (B, T, D) in place of tokens and pixels."""
        ids = given.get("input_ids")
        if ids is None or given.get("inputs_embeds") is not None:
            return given
        embedded = self.embedding(ids)
        codes = self.image_codes(given)
        if codes is not None:
            places = (ids == self.model.config.image_token_id)[..., None]
            embedded = embedded.masked_scatter(places, codes.pooler_output.to(embedded))
        unread = dict.fromkeys({"input_ids", "pixel_values", IMAGES} & given.keys())
        return given | unread | {"inputs_embeds": embedded}

    def image_codes(self, given: dict[str, Any]) -> Any:
        """Return the image encoder's output, whose ``pooler_output`` are embeddings of the codes.

        ``None`` if the arguments ``given`` hold no image.
        """
        found = (given.get(IMAGES) or {}).get("image")
        pixels = given.get("pixel_values")
        if found is None and pixels is not None:
            found = self.model.get_image_features(pixels, return_dict=True)
        return found

    def find_vision(self) -> tuple[str, str]:
        """Return the path of the VQ-VAE's encoder; nothing connects it to the decoder."""
        return "model.vqmodel.encoder", ""

    def render(self, query: Query) -> str:
        """Return the text and the separator that ends a question."""
        return f"{super().render(query)}{self.tokenizer.sep_token}"

    def processed(self, query: Query) -> dict[str, Any]:
        """Return the processor's output for the query; it appends the separator by itself."""
        text = super().render(query)
        options = {"add_special_tokens": False} if self.begun(text) else {}
        images = nested(query.images)
        return dict(self.processor(images=images, text=[text], return_tensors="pt", **options))

    def predict(self, states: Tensor) -> Tensor:
        """Return the logits (…, V) for states (…, D), the codes of images at the least value."""
        logits: Tensor = output_embedding(self.model)(states)
        codes = torch.tensor(self.model.model.vocabulary_mapping.image_tokens, device=logits.device)
        return logits.index_fill(-1, codes, torch.finfo(logits.dtype).min)
