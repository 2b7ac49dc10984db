"""Llama 4 (Meta, "The Llama 4 herd", 2025), a mixture of experts.

The text decoder is given the prompt with the image in place of its placeholder, and the generic
family finds everything. One fault of transformers 5.24.0 is worked around: it reads the attribute
``image_outputs`` of the text model's output, which has no such attribute.
"""

from typing import Any

from torch import nn

from liveedit.models.encoder import PromptFormat
from liveedit.models.families.generic import Generic

__all__ = ["Llama4"]


class Llama4(Generic):
    """Llama 4: the output of its text decoder always has an attribute ``image_outputs``."""

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        model.language_model.register_forward_hook(add_image_outputs)
        super().__init__(model, processor, prompt_format)


def add_image_outputs(_decoder: nn.Module, _args: Any, output: Any) -> None:
    """Forward hook that sets ``output.image_outputs`` to ``None`` where the output lacks it."""
    if not hasattr(output, "image_outputs"):
        output.image_outputs = None
