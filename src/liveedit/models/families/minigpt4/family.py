"""MiniGPT-4 (Zhu et al., ICLR 2024): the vision side of BLIP-2 and a Vicuna, the image tokens
within the text.

Its classes are BLIP-2's of ``transformers``, which take a Llama, under a ``model_type`` of their
own. Checkpoints come from the authors' files by ``src/liveedit/models/minigpt4_convert.py``.
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

CHAT = (  # the conversation of the authors' demo with Vicuna
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    "Please answer my questions.{% for message in messages %}"
    "###{% if message['role'] == 'user' %}Human: {% else %}Assistant: {% endif %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<Img><ImageHere></Img> {% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endfor %}###{% if add_generation_prompt %}Assistant: {% endif %}"
)

SEAM = "\x1f"
"""Where a rendered text is cut, so that the parts become tokens one by one. Being white space, no
blank follows it.
"""


class MiniGPT4Config(transformers.Blip2Config):  # type: ignore[misc]
    """BLIP-2's settings with a Llama for the text."""

    model_type = "minigpt4"


class MiniGPT4ForConditionalGeneration(transformers.Blip2ForConditionalGeneration):  # type: ignore[misc]
    """BLIP-2, but for one number: the authors' LayerNorm behind the vision tower has the eps of
    PyTorch.
    """

    config: MiniGPT4Config

    def __init__(self, config: MiniGPT4Config) -> None:
        super().__init__(config)
        self.vision_model.post_layernorm.eps = 1e-5

    @wraps(transformers.Blip2ForConditionalGeneration.generate, assigned=())
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """See :class:`Blip2ForConditionalGeneration`. Raises :class:`BadInput` where others are to
        propose tokens.
        """
        given = arguments(super().generate, args, kwargs)
        reason = "is not for MiniGPT-4, whose text model begins behind embeddings, where no tokens can be proposed"
        check_options(SPECULATIVE, given, self.language_model.generation_config, reason)
        return super().generate(*args, **kwargs)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the Vicuna, and what a checkpoint is said to be in; the Q-Former's is float32
        beside float16.
        """
        dtype: torch.dtype = self.language_model.dtype
        return dtype


class MiniGPT4Processor(transformers.ProcessorMixin):  # type: ignore[misc]
    """As many image tokens as the Q-Former has queries, where the placeholder is. BLIP-2's puts
    them in front.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        num_query_tokens: int = 32,
        chat_template: Any = None,
    ) -> None:
        self.num_query_tokens, self.image_token = num_query_tokens, IMAGE_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def replace_image_token(self, *_: Any, **__: Any) -> str:
        """What stands in the text for an image."""
        return self.image_token * self.num_query_tokens


transformers.AutoConfig.register(MiniGPT4Config.model_type, MiniGPT4Config)
transformers.AutoModelForImageTextToText.register(MiniGPT4Config, MiniGPT4ForConditionalGeneration)
transformers.AutoProcessor.register(MiniGPT4Config, MiniGPT4Processor)


class MiniGPT4(Blip2):
    """BOS, then the placeholder and a line break, then the prompt.

    The authors make tokens of what stands before the image, after it, and of the answer one by one,
    each with the blank that Llama puts before a text. VLKEB's form has no BOS.
    """

    hf_class = "AutoModelForImageTextToText"
    decoder_path = "language_model.model"
    image_mark = f"{IMAGE_TOKEN}\n"
    vlkeb_mark = f"###Human: <Img>{IMAGE_TOKEN}</Img> {SEAM}"
    single = ""
    place = VLM.place

    def render(self, query: Query) -> str:
        """The text up to where the answer begins; in a chat the answer is a text of its own."""
        text = super().render(query)
        return text + SEAM if self.prompt_format == "chat" else text

    def processed(self, query: Query) -> dict[str, Any]:
        """See :meth:`Encoder.processed`; its token ids of a raw prompt alone, for no processor
        makes them by parts.
        """
        found = super().processed(query)
        return {
            name: value
            for name, value in found.items()
            if self.prompt_format == "raw" or name == "pixel_values"
        }

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of rendered texts, made part by part."""
        begin = [] if self.prompt_format == "vlkeb" else [self.tokenizer.bos_token_id]
        parts = [
            self.tokenizer(text.split(SEAM), add_special_tokens=False)["input_ids"]
            for text in texts
        ]
        return [sum(ids, begin) for ids in parts]

    def generate(
        self, queries: Sequence[Query], *, max_new_tokens: int = 16, batch_size: int = 32
    ) -> list[str]:
        """The greedy answer to each query, up to the mark that begins the next turn: Vicuna v0 goes
        on with it.
        """
        answers = super().generate(queries, max_new_tokens=max_new_tokens, batch_size=batch_size)
        return [answer.partition("###")[0].strip() for answer in answers]
