"""Chameleon (Meta, 2024): images are words of the vocabulary, which the model puts into the text
within its decoder.
"""

from typing import Any

import torch
from torch import Tensor

from liveedit.models.encoder import nested
from liveedit.models.families.generic import Generic
from liveedit.models.patch import output_embedding
from liveedit.types import Query

__all__ = ["Chameleon"]


class Chameleon(Generic):
    """The words of the images are put in before the decoder runs, so that what goes into it is
    there to be seen.

    A token that separates question and answer follows the prompt, and no word of an image is ever
    answered.
    """

    def before_model(self, given: dict[str, Any]) -> dict[str, Any]:
        """Embeddings (B, T, D) in place of tokens, the words of the images among them."""
        ids, pixels, images = (
            given.get(name) for name in ("input_ids", "pixel_values", "mm_encoder_outputs")
        )
        if ids is None or given.get("inputs_embeds") is not None:
            return given
        embedded = self.embedding(ids)
        words = (images or {}).get("image")
        if words is None and pixels is not None:
            words = self.model.get_image_features(pixels, return_dict=True)
        if words is not None:
            places = (ids == self.model.config.image_token_id)[..., None]
            embedded = embedded.masked_scatter(places, words.pooler_output.to(embedded))
        unread = dict.fromkeys({"input_ids", "pixel_values", "mm_encoder_outputs"} & given.keys())
        return given | unread | {"inputs_embeds": embedded}

    def find_vision(self) -> tuple[str, str]:
        """What the words of an image are found by; nothing connects it to the decoder."""
        return "model.vqmodel.encoder", ""

    def render(self, query: Query) -> str:
        """The text, and the token that ends a question."""
        return f"{super().render(query)}{self.tokenizer.sep_token}"

    def processed(self, query: Query) -> dict[str, Any]:
        """What the model's own processor makes of the query's prompt; it adds the token that ends a
        question.
        """
        text = super().render(query)
        options = {"add_special_tokens": False} if self.begun(text) else {}
        return dict(
            self.processor(images=nested(query.images), text=[text], return_tensors="pt", **options)
        )

    def predict(self, states: Tensor) -> Tensor:
        """Logits (…, V), those of the words of images as low as can be."""
        logits: Tensor = output_embedding(self.model)(states)
        words = torch.tensor(self.model.model.vocabulary_mapping.image_tokens, device=logits.device)
        return logits.index_fill(-1, words, torch.finfo(logits.dtype).min)
