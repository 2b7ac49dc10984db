"""mPLUG-Owl2 (Ye et al., CVPR 2024) on Llama-2-7B: the image within the prompt, or before the BOS
where it begins it.

Prompts are those of the authors' code: in conversation ``USER: <|image|>`` prompt `` ASSISTANT:``,
raw, as VLKEB asks, ``<|image|>`` and the prompt. Their tokenizer reads what is between images piece
by piece and puts the BOS before the first piece, so an image that nothing precedes comes before the
BOS.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoProcessor, ProcessorMixin
from transformers.image_utils import SizeDict
from transformers.models.auto.image_processing_auto import (
    AutoImageProcessor,
)  # 5.17 hides it without torchvision
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from liveedit.models.families.mplug_owl2.modeling import MPlugOwl2Config
from liveedit.models.vlm import VLM

__all__ = ["CHAT", "IMAGE", "MPlugOwl2", "MPlugOwl2ImageProcessor", "MPlugOwl2Processor"]

IMAGE = "<|image|>"
"""What stands for the image in a text."""

CHAT = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}{% endif %}{% endfor %} "
    "{% else %}ASSISTANT: {% for part in message['content'] %}{{ part['text'] }}{% endfor %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""The authors' template of a conversation."""


class MPlugOwl2ImageProcessor(CLIPImageProcessorPil):  # type: ignore[misc]
    """CLIP's, of the image stretched to a square, as the authors ask for: nothing of it is cut off."""

    def resize(
        self, image: NDArray[Any], size: SizeDict, resample: Any = None, **kwargs: Any
    ) -> NDArray[np.uint8]:
        """``image`` (3, H, W) stretched to its longer side, then to ``size``; in two steps, as the
        authors do it.
        """
        edge = max(image.shape[1:])
        square = super().resize(image, SizeDict(height=edge, width=edge), resample, **kwargs)
        resized: NDArray[np.uint8] = super().resize(square, size, resample, **kwargs)
        return resized


class MPlugOwl2Processor(ProcessorMixin):  # type: ignore[misc]
    """Texts with ``<|image|>`` in them, and their images, to the model's inputs; each image takes
    as many tokens.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        num_image_tokens: int = 65,
        chat_template: Any = None,
    ) -> None:
        self.num_image_tokens = num_image_tokens
        self.image_token, self.image_token_id = IMAGE, tokenizer.convert_tokens_to_ids(IMAGE)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> Any:
        """See :class:`ProcessorMixin`."""
        texts = [text] if isinstance(text, str) else text
        if texts is not None:
            texts = [self.begun(text) for text in texts]
        return super().__call__(images, texts, add_special_tokens=False, **kwargs)

    def begun(self, text: str) -> str:
        """The text with its BOS: before all of it but the images that it begins with."""
        rest = text
        while rest.startswith(IMAGE):
            rest = rest.removeprefix(IMAGE)
        return f"{text[: len(text) - len(rest)]}{self.tokenizer.bos_token}{rest}"

    def replace_image_token(self, image_inputs: Any, image_idx: int, **_: Any) -> str:  # noqa: ARG002
        """The tokens of one image."""
        return IMAGE * self.num_image_tokens


class MPlugOwl2(VLM):
    """Prompt and image tokens are the processor's; the rest is in LLaVA's places."""

    image_mark = vlkeb_mark = IMAGE

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of rendered texts, the BOS where the authors put it."""
        begun = [self.processor.begun(text) for text in texts]
        ids: list[list[int]] = self.tokenizer(begun, add_special_tokens=False)["input_ids"]
        return ids


AutoImageProcessor.register(MPlugOwl2Config, slow_image_processor_class=MPlugOwl2ImageProcessor)
AutoProcessor.register(MPlugOwl2Config, MPlugOwl2Processor)
