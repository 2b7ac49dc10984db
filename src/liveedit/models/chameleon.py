"""Chameleon (Meta, 2024): images are words of the vocabulary, which the model puts into the text within its decoder."""

from functools import wraps
from typing import Any

import torch
from torch import Tensor

from liveedit.models.encode import PromptFormat, nested
from liveedit.models.generic import Generic
from liveedit.models.patch import output_embedding
from liveedit.types import Query

__all__ = ["Chameleon"]


class Chameleon(Generic):
    """The words of the images are put in before the decoder runs, so that what goes into it is there to be seen.

    A token that separates question and answer follows the prompt, and no word of an image is ever answered.
    """

    def __init__(self, model: Any, processor: Any, prompt_format: PromptFormat | None = None) -> None:
        own = model.forward

        @wraps(own)
        def embedded(input_ids: Any = None, pixel_values: Any = None, inputs_embeds: Any = None, **kwargs: Any) -> Any:
            if inputs_embeds is None:
                inputs_embeds = model.get_input_embeddings()(input_ids)
            images = (kwargs.pop("mm_encoder_outputs", None) or {}).get("image")
            if images is None and pixel_values is not None:
                images = model.get_image_features(pixel_values, return_dict=True)
            if images is not None:
                places = (input_ids == model.config.image_token_id)[..., None]
                inputs_embeds = inputs_embeds.masked_scatter(places, images.pooler_output.to(inputs_embeds))
            return own(inputs_embeds=inputs_embeds, **kwargs)

        model.forward = embedded
        super().__init__(model, processor, prompt_format)

    def find_vision(self) -> tuple[str, str]:
        """What the words of an image are found by; nothing connects it to the decoder."""
        return "model.vqmodel.encoder", ""

    def render(self, query: Query) -> str:
        """The text, and the token that ends a question."""
        return f"{super().render(query)}{self.tokenizer.sep_token}"

    def processed(self, query: Query) -> dict[str, Any]:
        """What the model's own processor makes of the query's prompt; it adds the token that ends a question."""
        text = super().render(query)
        options = {"add_special_tokens": False} if self.begun(text) else {}
        return dict(self.processor(images=nested(query.images), text=[text], return_tensors="pt", **options))

    def predict(self, states: Tensor) -> Tensor:
        """Logits (…, V), those of the words of images as low as can be."""
        logits: Tensor = output_embedding(self.model)(states)
        words = torch.tensor(self.model.model.vocabulary_mapping.image_tokens, device=logits.device)
        return logits.index_fill(-1, words, torch.finfo(logits.dtype).min)
