"""InstructBLIP (Dai et al., NeurIPS 2023) with a decoder-only text model: a Q-Former that reads the
prompt.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from liveedit.errors import BadInput
from liveedit.models.encoder import PromptFormat
from liveedit.models.families.blip2 import Blip2
from liveedit.types import Query

__all__ = ["InstructBlip"]


class InstructBlip(Blip2):
    """BLIP-2's image tokens; a tokenizer of its own gives the Q-Former the prompt of every query
    with an image.
    """

    hf_class = "InstructBlipForConditionalGeneration"

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        super().__init__(model, processor, prompt_format)
        if not hasattr(model.language_model.model, "decoder"):  # Vicuna, not OPT
            self.decoder_path = "language_model.model"  # type: ignore[misc]

    def also_read(self, queries: Sequence[Query]) -> dict[str, Tensor]:
        """The prompts of the queries with an image, in the Q-Former's tokens; the first text for a
        blank image.
        """
        asked = [self.render(query) for query in queries if query.image is not None] or [
            self.render(queries[0])
        ]
        read = self.processor.qformer_tokenizer(asked, padding=True, return_tensors="pt")
        taken, room = (
            read["input_ids"].shape[1],
            self.model.config.qformer_config.max_position_embeddings,
        )
        if taken > room:
            raise BadInput(
                f"the Q-Former has room for {room} tokens, and the prompt takes {taken}: shorten the prompt"
            )
        return {
            "qformer_input_ids": read["input_ids"],
            "qformer_attention_mask": read["attention_mask"],
        }
