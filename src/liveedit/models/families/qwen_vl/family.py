"""Qwen-VL and Qwen-VL-Chat (Bai et al., 2023, arXiv 2308.12966).

The text decoder is given the prompt with the image in place of its placeholder: 256 outputs of a
resampler, between two marks. The prompt counts the images: ``Picture 1:`` and so on.

Both forms of the prompt are the authors'. The raw form, which the base model was trained on and
VLKEB uses, is ``Picture 1: <img>…</img>``, a line break and the text; the chat template is
Qwen-VL-Chat's ChatML.
"""

from typing import Any

from transformers import AutoProcessor, ProcessorMixin

from liveedit.models.families.qwen_vl.modeling import QwenVLConfig
from liveedit.models.vlm import VLM

__all__ = ["CHAT", "QwenVL", "QwenVLProcessor"]

CHAT = (
    "{% if messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}"
    "{{ message['content'] }}"
    "{% else %}"
    "{% set pictures = namespace(count=0) %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}"
    "{% set pictures.count = pictures.count + 1 %}"
    "Picture {{ pictures.count }}: <img><imgpad></img>\n"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen-VL-Chat's template; every message counts its images from 1."""


class QwenVLProcessor(ProcessorMixin):  # type: ignore[misc]
    """Writes ``image_seq_length`` image tokens in place of the placeholder ``<imgpad>``."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_length: int = 256,
        chat_template: Any = None,
    ) -> None:
        self.image_token = "<imgpad>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.image_seq_length = image_seq_length
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def replace_image_token(self, image_inputs: Any, image_idx: int, **_: Any) -> str:  # noqa: ARG002
        """Return the image tokens of one image, as text."""
        return self.image_token * self.image_seq_length


AutoProcessor.register(QwenVLConfig, QwenVLProcessor)


class QwenVL(VLM):
    """Qwen-VL: the marks ``<img>`` and ``</img>`` around an image count as text."""

    image_mark = vlkeb_mark = "Picture 1: <img><imgpad></img>\n"

    def marks(self, count: int) -> str:
        """Return the text for ``count`` images, numbered from 1."""
        numbers = range(1, count + 1)
        return "".join(f"Picture {number}: <img><imgpad></img>\n" for number in numbers)
