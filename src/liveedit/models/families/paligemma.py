"""PaliGemma (Beyer et al., 2024, arXiv 2407.07726) and PaliGemma 2 (Steiner et al., 2024).

The text decoder is given the image tokens, BOS, the prompt and a line break. Prompt and image
attend to one another in both directions; only the answer is causal (a prefix language model). There
is no chat template.
"""

from typing import Any

import torch
from torch import Tensor

from liveedit.errors import BadInput
from liveedit.models.batch import Spans
from liveedit.models.encoder import PromptFormat, nested
from liveedit.models.families.generic import Generic
from liveedit.types import Query

__all__ = ["PaliGemma"]


class PaliGemma(Generic):
    """PaliGemma: image tokens, BOS, prompt, line break; token types mark the prefix."""

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        if prompt_format == "chat":
            raise BadInput("PaliGemma has no chat template: use the prompt format 'raw'")
        super().__init__(model, processor, "raw")

    def render(self, query: Query) -> str:
        """Return the text up to the answer, with one placeholder for each image."""
        placeholders = self.placeholder * len(query.images)
        return f"{placeholders}{self.tokenizer.bos_token}{query.prompt.strip()}\n"

    def processed(self, query: Query) -> dict[str, Any]:
        """Return the processor's output; it writes BOS and the line break by itself."""
        text = f"{self.placeholder * max(len(query.images), 1)}{query.prompt.strip()}"
        return dict(self.processor(images=nested(query.images), text=[text], return_tensors="pt"))

    def token_kinds(self, input_ids: Tensor, spans: list[Spans]) -> dict[str, Tensor]:
        """Return ``token_type_ids`` (B, T): 0 up to the end of the prompt, 1 from the answer on."""
        ends = torch.tensor([span.answer[0] for span in spans])[:, None]
        return {"token_type_ids": (torch.arange(input_ids.shape[1]) >= ends).long()}
