"""InstructBLIP (Dai et al., NeurIPS 2023) with a decoder-only text model: BLIP-2 whose Q-Former reads the prompt, too."""

from collections.abc import Sequence
from typing import Any

from liveedit.models.batch import Batch, PaddingSide
from liveedit.models.blip2 import Blip2
from liveedit.models.encode import PromptFormat
from liveedit.types import Query

__all__ = ["InstructBlip"]


class InstructBlip(Blip2):
    """BLIP-2's image tokens; a tokenizer of its own gives the Q-Former the prompt of every query with an image."""

    hf_class = "InstructBlipForConditionalGeneration"

    def __init__(self, model: Any, processor: Any, prompt_format: PromptFormat | None = None) -> None:
        super().__init__(model, processor, prompt_format)
        if not hasattr(model.language_model.model, "decoder"):  # Vicuna, not OPT
            self.decoder_path = "language_model.model"  # type: ignore[misc]

    def encode(self, queries: Sequence[Query], *, padding_side: PaddingSide = "right", eos: bool = False) -> Batch:
        """As :meth:`VLM.encode`, with what the Q-Former reads; a blank image comes with an empty text."""
        batch = super().encode(queries, padding_side=padding_side, eos=eos)
        for patch in self.patches:
            queries = [patch.rewrite(query) for query in queries]
        asked = [self.render(query) for query in queries if query.image is not None] or [""]
        read = self.processor.qformer_tokenizer(asked, padding=True, return_tensors="pt")
        names = {"qformer_input_ids": "input_ids", "qformer_attention_mask": "attention_mask"}
        batch.inputs |= {name: self.put(read[own]) for name, own in names.items()}
        return batch
