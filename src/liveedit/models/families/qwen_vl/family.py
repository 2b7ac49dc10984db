"""Qwen-VL (Bai et al., 2023), the first one: 256 image tokens between two of its own, in a prompt
that counts pictures.

Both prompt forms are the authors': a raw prompt is ``Picture 1: <img>…</img>``, a line break and
the text, as the base model was trained on it and VLKEB feeds it; the chat template is
Qwen-VL-Chat's ChatML.
"""

from typing import Any

from transformers import AutoProcessor, ProcessorMixin

from liveedit.models.families.qwen_vl.modeling import QwenVLConfig
from liveedit.models.vlm import VLM

__all__ = ["CHAT", "QwenVL", "QwenVLProcessor"]

CHAT = (  # each message counts its pictures anew
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% set pictures = namespace(count=0) %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{% set pictures.count = pictures.count + 1 %}"
    "Picture {{ pictures.count }}: <img><imgpad></img>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class QwenVLProcessor(ProcessorMixin):  # type: ignore[misc]
    """Image processor and tokenizer; every image takes ``image_seq_length`` tokens."""

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
        """What stands for one image in the text."""
        return self.image_token * self.image_seq_length


AutoProcessor.register(QwenVLConfig, QwenVLProcessor)


class QwenVL(VLM):
    """The image stands between two tokens of its own, which count as text."""

    image_mark = vlkeb_mark = "Picture 1: <img><imgpad></img>\n"

    def marks(self, count: int) -> str:
        """The pictures, counted from 1."""
        return "".join(f"Picture {number}: <img><imgpad></img>\n" for number in range(1, count + 1))
