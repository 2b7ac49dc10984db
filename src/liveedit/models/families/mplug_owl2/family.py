"""mPLUG-Owl2 (Ye et al., CVPR 2024, arXiv 2311.04257) on Llama-2-7B.

The text decoder is given the prompt with the image in place of its placeholder: 65 outputs of a
visual abstractor. Its layers have weights of their own for image tokens (``modeling.py``).

Prompts are those of the authors' code: in a chat ``USER: <|image|>`` prompt `` ASSISTANT:``; in the
raw form, which is also VLKEB's, ``<|image|>`` and the prompt. The authors' code tokenizes the
pieces of text between images one by one and puts BOS before the first piece. So an image at the
beginning of the text stands before BOS.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoProcessor, ProcessorMixin
from transformers.image_utils import SizeDict

# transformers itself offers it only beside torchvision up to 5.17.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from liveedit.models.families.mplug_owl2.modeling import MPlugOwl2Config
from liveedit.models.vlm import VLM

__all__ = ["CHAT", "IMAGE", "MPlugOwl2", "MPlugOwl2ImageProcessor", "MPlugOwl2Processor"]

IMAGE = "<|image|>"
"""The placeholder of an image in a text, and the token that represents each piece of it."""

CHAT = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}{% endif %}{% endfor %} "
    "{% else %}ASSISTANT: "
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""The authors' chat template."""


class MPlugOwl2ImageProcessor(CLIPImageProcessorPil):  # type: ignore[misc]
    """CLIP's image processor on the image stretched to a square, so that nothing is cut off."""

    def resize(
        self, image: NDArray[Any], size: SizeDict, resample: Any = None, **kwargs: Any
    ) -> NDArray[np.uint8]:
        """Return ``image`` (3, H, W) as (3, S, S), stretched to its longer side, then to ``size``.

        The authors do it in these two steps.
        """
        edge = max(image.shape[1:])
        square = super().resize(image, SizeDict(height=edge, width=edge), resample, **kwargs)
        resized: NDArray[np.uint8] = super().resize(square, size, resample, **kwargs)
        return resized


class MPlugOwl2Processor(ProcessorMixin):  # type: ignore[misc]
    """Turns texts with ``<|image|>`` in them, and their images, into the model's inputs.

    Every image takes ``num_image_tokens`` tokens.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        num_image_tokens: int = 65,
        chat_template: Any = None,
    ) -> None:
        self.num_image_tokens = num_image_tokens
        self.image_token = IMAGE
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> Any:
        """Return the model's inputs, as :class:`ProcessorMixin` does, with BOS in the texts."""
        texts = [text] if isinstance(text, str) else text
        if texts is not None:
            texts = [self.with_bos(text) for text in texts]
        return super().__call__(images, texts, add_special_tokens=False, **kwargs)

    def with_bos(self, text: str) -> str:
        """Return the text with BOS before all of it except the images that it begins with."""
        rest = text
        while rest.startswith(IMAGE):
            rest = rest.removeprefix(IMAGE)
        images = text[: len(text) - len(rest)]
        return f"{images}{self.tokenizer.bos_token}{rest}"

    def replace_image_token(self, image_inputs: Any, image_idx: int, **_: Any) -> str:  # noqa: ARG002
        """Return the image tokens of one image, as text."""
        return IMAGE * self.num_image_tokens


class MPlugOwl2(VLM):
    """mPLUG-Owl2: BOS stands where its processor puts it; modules are named as LLaVA's are."""

    image_mark = vlkeb_mark = IMAGE

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of rendered texts, with BOS where the authors put it."""
        whole = [self.processor.with_bos(text) for text in texts]
        ids: list[list[int]] = self.tokenizer(whole, add_special_tokens=False)["input_ids"]
        return ids


AutoImageProcessor.register(MPlugOwl2Config, slow_image_processor_class=MPlugOwl2ImageProcessor)
AutoProcessor.register(MPlugOwl2Config, MPlugOwl2Processor)
