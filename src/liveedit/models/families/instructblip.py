"""InstructBLIP (Dai et al., NeurIPS 2023, arXiv 2305.06500) with a decoder-only language model.

The text decoder (OPT or Vicuna) is given the same as BLIP-2's: the Q-Former's outputs, BOS and the
prompt. Unlike BLIP-2's, the Q-Former also reads the prompt, as tokens of a BERT tokenizer of its
own.
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
    """InstructBLIP: BLIP-2 whose Q-Former is also given the prompt of every query with an image."""

    hf_class = "InstructBlipForConditionalGeneration"

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        super().__init__(model, processor, prompt_format)
        if not hasattr(model.language_model.model, "decoder"):  # Vicuna, not OPT
            self.decoder_path = "language_model.model"  # type: ignore[misc]

    def also_read(self, queries: Sequence[Query]) -> dict[str, Tensor]:
        """Return the Q-Former's token ids and mask, (n, T_q) each, one row for each image.

        A batch without images has one blank image (:meth:`Blip2.join`), which is given the first
        prompt. Raises :class:`BadInput` for a prompt that is longer than the Q-Former's positions.
        """
        prompts = [self.render(query) for query in queries if query.image is not None]
        if not prompts:
            prompts = [self.render(queries[0])]
        read = self.processor.qformer_tokenizer(prompts, padding=True, return_tensors="pt")
        taken = read["input_ids"].shape[1]
        room = self.model.config.qformer_config.max_position_embeddings
        if taken > room:
            raise BadInput(
                f"the Q-Former has room for {room} tokens, and the prompt takes {taken}: "
                "shorten the prompt"
            )
        return {
            "qformer_input_ids": read["input_ids"],
            "qformer_attention_mask": read["attention_mask"],
        }
