"""Llama 4 (Meta, 2025): a mixture of experts, read by the conventions but for one name."""

from typing import Any

from torch import nn

from liveedit.models.encoder import PromptFormat
from liveedit.models.families.generic import Generic

__all__ = ["Llama4"]


class Llama4(Generic):
    """transformers 5.24.0 asks the text decoder for the images' features, which it does not put
    out: there are none.
    """

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        model.language_model.register_forward_hook(without_images)
        super().__init__(model, processor, prompt_format)


def without_images(_decoder: nn.Module, _args: Any, output: Any) -> None:
    """A forward hook by which what a text decoder puts out says that it holds no features of
    images.
    """
    if not hasattr(output, "image_outputs"):
        output.image_outputs = None
