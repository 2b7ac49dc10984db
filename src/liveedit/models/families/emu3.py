"""Emu3 (Wang et al., BAAI, 2024, arXiv 2409.18869).

The text decoder is given discrete tokens throughout: a VQ tokenizer turns an image of any size into
codes that are entries of the vocabulary, one row of codes after the other. The processor pads
images of several sizes to the largest, and the padding would change their codes, so each image is
encoded by itself.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from liveedit.models.encoder import PromptFormat
from liveedit.models.families.generic import Generic

__all__ = ["Emu3"]


class Emu3(Generic):
    """Emu3: each image is encoded without padding; the processor adds BOS, not the tokenizer."""

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        model.model.vqmodel.encode = partial(encode_unpadded, model.model.vqmodel.encode)
        super().__init__(model, processor, prompt_format)

    def find_vision(self) -> tuple[str, str]:
        """Return the path of the VQ tokenizer's encoder; nothing connects it to the decoder."""
        return "model.vqmodel.encoder", ""

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of rendered texts, after BOS unless the template has written it."""
        first = [] if self.begun(texts[0]) else [self.tokenizer.bos_token_id]
        return [first + ids for ids in super().token_ids(texts)]


def encode_unpadded(
    encode: Callable[..., Any], pixel_values: Tensor, image_sizes: Tensor, **kwargs: Any
) -> Any:
    """Return the output of ``encode`` for images that it is given one by one, without padding.

    ``pixel_values`` is (n, 3, H, W), ``image_sizes`` (n, 2) the height and width of each image.
    """
    outputs = []
    image_tokens = []
    for pixels, size in zip(pixel_values, image_sizes, strict=True):
        height, width = size
        unpadded = pixels[None, :, : int(height), : int(width)]
        output = encode(unpadded, size[None], **kwargs)
        image_tokens.extend(output.image_tokens)
        outputs.append(output)
    merged = outputs[0]
    merged.image_tokens = image_tokens
    return merged
