"""MiniGPT-4 (Zhu et al., ICLR 2024, arXiv 2304.10592): BLIP-2's vision side and a Vicuna v0.

The text decoder is given BOS and the prompt with the image in place of its placeholder: 32 outputs
of the Q-Former, projected by one linear map. The authors tokenize the text before the image, the
text after it and the answer separately, each with the space that Llama puts before a text. Here
:data:`SEAM` marks where a rendered text is cut.

The classes are transformers' BLIP-2, which also takes a Llama, under a ``model_type`` of their own.
Importing this module registers them with the Auto classes. ``minigpt4/convert.py`` makes a
checkpoint from the authors' files.
"""

from collections.abc import Sequence
from functools import wraps
from typing import Any

import torch
import transformers

from liveedit.models.calls import arguments
from liveedit.models.families.blip2 import Blip2
from liveedit.models.greedy import SPECULATIVE, check_options
from liveedit.models.vlm import VLM
from liveedit.types import Query

__all__ = [
    "CHAT",
    "IMAGE_TOKEN",
    "MiniGPT4",
    "MiniGPT4Config",
    "MiniGPT4ForConditionalGeneration",
    "MiniGPT4Processor",
]

IMAGE_TOKEN = "<ImageHere>"
"""The placeholder of an image in a text, and the token that represents each piece of it."""

CHAT = (
    "Give the following image: <Img>ImageContent</Img>. "
    "You will be able to see the image once I provide it to you. Please answer my questions."
    "{% for message in messages %}"
    "###{% if message['role'] == 'user' %}Human: {% else %}Assistant: {% endif %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<Img><ImageHere></Img> "
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% endfor %}"
    "###{% if add_generation_prompt %}Assistant: {% endif %}"
)
"""The chat template: the conversation of the authors' demo with Vicuna."""

TURN = "###"
"""The text that begins the next turn of a conversation."""

SEAM = "\x1f"
"""Where a rendered text is cut; each part is tokenized by itself.

It is a white-space character, so no space is put between it and the answer.
"""


class MiniGPT4Config(transformers.Blip2Config):  # type: ignore[misc]
    """BLIP-2's configuration with a Llama as the language model."""

    model_type = "minigpt4"


class MiniGPT4ForConditionalGeneration(transformers.Blip2ForConditionalGeneration):  # type: ignore[misc]
    """BLIP-2, except that the LayerNorm after the vision tower has PyTorch's default eps."""

    config: MiniGPT4Config

    def __init__(self, config: MiniGPT4Config) -> None:
        super().__init__(config)
        self.vision_model.post_layernorm.eps = 1e-5

    @wraps(transformers.Blip2ForConditionalGeneration.generate, assigned=())
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as :class:`Blip2ForConditionalGeneration` does.

        Raises :class:`BadInput` for speculative decoding: BLIP-2 gives its language model
        embeddings without token ids, from which no tokens can be proposed.
        """
        given = arguments(super().generate, args, kwargs)
        reason = (
            "is not for MiniGPT-4, whose text model begins after embeddings, "
            "where no tokens can be proposed"
        )
        check_options(SPECULATIVE, given, self.language_model.generation_config, reason)
        return super().generate(*args, **kwargs)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the Vicuna's weights, and the one written into a checkpoint's config.

        The Q-Former stays in float32 where the Vicuna is in float16.
        """
        dtype: torch.dtype = self.language_model.dtype
        return dtype


class MiniGPT4Processor(transformers.ProcessorMixin):  # type: ignore[misc]
    """Writes one image token for each query of the Q-Former in place of the placeholder.

    BLIP-2's processor would put them before the text.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        num_query_tokens: int = 32,
        chat_template: Any = None,
    ) -> None:
        self.num_query_tokens = num_query_tokens
        self.image_token = IMAGE_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def replace_image_token(self, *_: Any, **__: Any) -> str:
        """Return the image tokens of one image, as text."""
        return self.image_token * self.num_query_tokens


transformers.AutoConfig.register(MiniGPT4Config.model_type, MiniGPT4Config)
transformers.AutoModelForImageTextToText.register(MiniGPT4Config, MiniGPT4ForConditionalGeneration)
transformers.AutoProcessor.register(MiniGPT4Config, MiniGPT4Processor)


class MiniGPT4(Blip2):
    """MiniGPT-4: BOS, the image, a line break and the prompt; VLKEB's form has no BOS."""

    hf_class = "AutoModelForImageTextToText"
    decoder_path = "language_model.model"
    image_mark = f"{IMAGE_TOKEN}\n"
    vlkeb_mark = f"###Human: <Img>{IMAGE_TOKEN}</Img> {SEAM}"
    ends = (TURN,)
    single = ""
    expand_image_tokens = VLM.expand_image_tokens  # within the text, not before it as in BLIP-2

    def render(self, query: Query) -> str:
        """Return the text up to the answer; in a chat the answer is tokenized by itself."""
        text = super().render(query)
        return text + SEAM if self.prompt_format == "chat" else text

    def processed(self, query: Query) -> dict[str, Any]:
        """Return the processor's output: with token ids for a raw prompt, else only the pixels.

        No processor tokenizes a text in parts.
        """
        found = super().processed(query)
        if self.prompt_format == "raw":
            return found
        return {name: value for name, value in found.items() if name == "pixel_values"}

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of rendered texts, tokenized part by part."""
        begin = [] if self.prompt_format == "vlkeb" else [self.tokenizer.bos_token_id]
        rows = []
        for text in texts:
            parts = self.tokenizer(text.split(SEAM), add_special_tokens=False)["input_ids"]
            rows.append(sum(parts, begin))
        return rows

    def generate(
        self, queries: Sequence[Query], *, max_new_tokens: int = 16, batch_size: int = 32
    ) -> list[str]:
        """Return the greedy answers, cut where Vicuna v0 continues with the next turn."""
        answers = super().generate(queries, max_new_tokens=max_new_tokens, batch_size=batch_size)
        return [answer.partition(TURN)[0].strip() for answer in answers]
