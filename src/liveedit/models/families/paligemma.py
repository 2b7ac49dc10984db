"""PaliGemma (Beyer et al., 2024) and 2: the prompt attends to itself in both directions, only the
answer is causal.
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
    """Image tokens, BOS, the prompt and a line break; no template for chats."""

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        if prompt_format == "chat":
            raise BadInput("PaliGemma answers single prompts: use the prompt format 'raw'")
        super().__init__(model, processor, "raw")

    def render(self, query: Query) -> str:
        """What the processor makes of the prompt, with one placeholder for each image."""
        return f"{self.placeholder * len(query.images)}{self.tokenizer.bos_token}{query.prompt.strip()}\n"

    def processed(self, query: Query) -> dict[str, Any]:
        """What the processor, which writes BOS and line break itself, makes of the query's prompt."""
        text = f"{self.placeholder * max(len(query.images), 1)}{query.prompt.strip()}"
        return dict(self.processor(images=nested(query.images), text=[text], return_tensors="pt"))

    def token_kinds(self, input_ids: Tensor, spans: list[Spans]) -> dict[str, Tensor]:
        """0 up to the end of the prompt, 1 for the answer and what is generated after it."""
        stops = torch.tensor([span.answer[0] for span in spans])[:, None]
        return {"token_type_ids": (torch.arange(input_ids.shape[1]) >= stops).long()}
