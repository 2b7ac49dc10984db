"""Random tiny VLMs: builders of six families, and ``tiny()``, which makes a model of any type.

They are for tests and first steps. Configurations and classes are the real ones; nothing is
downloaded.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import transformers
from transformers import PreTrainedTokenizerFast
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from liveedit.models.families.minigpt4.family import CHAT as MINIGPT4_CHAT
from liveedit.models.families.minigpt4.family import (
    IMAGE_TOKEN,
    MiniGPT4Config,
    MiniGPT4ForConditionalGeneration,
    MiniGPT4Processor,
)
from liveedit.models.families.mplug_owl2 import family as mplug_owl2
from liveedit.models.families.mplug_owl2.modeling import (
    MPlugOwl2Config,
    MPlugOwl2ForConditionalGeneration,
)
from liveedit.models.families.qwen2_vl import Qwen2VLProcessor
from liveedit.models.families.qwen_vl.family import CHAT as QWEN_VL_CHAT
from liveedit.models.families.qwen_vl.family import QwenVLProcessor
from liveedit.models.families.qwen_vl.modeling import QwenVLConfig, QwenVLForConditionalGeneration
from liveedit.models.patch import output_embedding
from liveedit.models.tiny.shrink import shrink
from liveedit.models.tiny.tokenizer import tokenizer
from liveedit.models.vlm import VLM
from liveedit.settings import check_seed

__all__ = ["CHAT", "VISION", "TinyFamily", "spread", "text_settings", "tiny"]

TinyFamily = Literal["llava", "blip2", "minigpt4", "mplug_owl2", "qwen2_vl", "qwen_vl"]

WIDTH, LAYERS, HEADS = 32, 4, 4
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
CHAT = (  # Qwen2-VL's template for one turn
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny(family: TinyFamily | str, seed: int = 0) -> VLM:
    """A tiny VLM with random weights drawn from ``seed``, and a byte-level tokenizer.

    The families of :data:`TinyFamily` have 4 layers of width 32; any other model type that
    transformers knows is built by :func:`liveedit.models.tiny.shrink.shrink`. Processor and
    configuration are of the type's real classes, so code that works here also works on a
    checkpoint. The random state of torch is left as it was. Raises :class:`BadInput` for a seed
    beyond 32 bits.
    """
    builders: dict[str, Callable[[], tuple[Any, Any]]] = {
        "llava": llava,
        "blip2": blip2,
        "minigpt4": minigpt4,
        "mplug_owl2": owl2,
        "qwen2_vl": qwen2_vl,
        "qwen_vl": qwen_vl,
    }
    check_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor = builders[family]() if family in builders else shrink(family)
        spread(model)
    return VLM(model, processor)


@torch.no_grad()
def spread(model: Any) -> None:
    """Draw larger weights, so that the image and every prompt token change the logits.

    The image token and the mark before it get a logit of 0, so that they are never the greedy
    answer: no trained model answers with them either.
    """
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    tokens = (
        getattr(model.config, name, None) for name in ("image_token_id", "vision_start_token_id")
    )
    for token in filter(None, tokens):
        for embedding in (model.get_input_embeddings(), output_embedding(model)):
            embedding.weight[token:][:1] = 0.0  # there may be no such row


def text_settings(text: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Settings that the text configurations of all families share."""
    ends = {
        "bos_token_id": text.bos_token_id,
        "eos_token_id": text.eos_token_id,
        "pad_token_id": text.pad_token_id,
    }
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    return {**ends, **sizes, "vocab_size": len(text), "max_position_embeddings": 512}


def llava() -> tuple[Any, Any]:
    """LLaVA: CLIP of 24 pixels in patches of 8, so 9 image tokens, and a Llama."""
    text = tokenizer("<s>", ["</s>", "<pad>", "<image>"])
    config = transformers.LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "image_size": 24,
            "patch_size": 8,
            **VISION,
        },
        text_config={"model_type": "llama", "intermediate_size": 64, **text_settings(text)},
        image_token_index=text.convert_tokens_to_ids("<image>"),
    )
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}
    )
    processor = transformers.LlavaProcessor(
        image_processor,
        text,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def qformer_settings() -> dict[str, Any]:
    """Settings that BLIP-2 and MiniGPT-4 share: a ViT of 24 pixels, a Q-Former with 5 queries."""
    qformer = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return {
        "vision_config": {"image_size": 24, "patch_size": 8, **VISION},
        "qformer_config": {"encoder_hidden_size": 32, "vocab_size": 8, **qformer},
        "num_query_tokens": 5,
    }


def blip2() -> tuple[Any, Any]:
    """BLIP-2: a ViT of 24 pixels, a Q-Former with 5 queries and an OPT."""
    text = tokenizer("</s>", ["</s>", "<pad>", "<image>"])
    text.image_token = transformers.AddedToken("<image>", normalized=False, special=True)
    words = {"model_type": "opt", "ffn_dim": 64, "word_embed_proj_dim": WIDTH, "dropout": 0.0}
    config = transformers.Blip2Config(
        text_config={**words, **text_settings(text)},
        image_token_index=text.convert_tokens_to_ids("<image>"),
        **qformer_settings(),
    )
    image_processor = BlipImageProcessorPil(size={"height": 24, "width": 24})
    processor = transformers.Blip2Processor(image_processor, text, num_query_tokens=5)
    return transformers.Blip2ForConditionalGeneration(config), processor


def minigpt4() -> tuple[Any, Any]:
    """MiniGPT-4: BLIP-2's ViT and Q-Former, a Llama, a chat template."""
    text = tokenizer("<s>", ["</s>", "<pad>", IMAGE_TOKEN])
    config = MiniGPT4Config(
        text_config={"model_type": "llama", "intermediate_size": 64, **text_settings(text)},
        image_token_index=text.convert_tokens_to_ids(IMAGE_TOKEN),
        **qformer_settings(),
    )
    image_processor = BlipImageProcessorPil(size={"height": 24, "width": 24})
    return MiniGPT4ForConditionalGeneration(config), MiniGPT4Processor(
        image_processor, text, 5, MINIGPT4_CHAT
    )


def qwen2_vl() -> tuple[Any, Any]:
    """Qwen2-VL: 1 to 16 image tokens of 16 pixels square each, 3-D rotary positions, a chat
    template.
    """
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    text = tokenizer(None, ["<|im_end|>", "<|endoftext|>", "<|im_start|>", *marks])
    names = {"vision_start_token_id": marks[0], "vision_end_token_id": marks[1]}
    names |= {"image_token_id": marks[2], "video_token_id": marks[3]}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = transformers.Qwen2VLConfig(
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 8,
            "hidden_size": WIDTH,
        },
        text_config={
            "intermediate_size": 64,
            "num_key_value_heads": 2,
            "rope_parameters": rope,
            **text_settings(text),
        },
        **{key: text.convert_tokens_to_ids(name) for key, name in names.items()},
    )
    sizes = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=8, merge_size=2, temporal_patch_size=2, size=sizes
    )
    return transformers.Qwen2VLForConditionalGeneration(config), Qwen2VLProcessor(
        image_processor, text, chat_template=CHAT
    )


def owl2() -> tuple[Any, Any]:
    """mPLUG-Owl2: CLIP of 24 pixels, 5 + 1 image tokens, a Llama with separate weights for them."""
    text = tokenizer("<s>", ["</s>", "<pad>"])
    config = MPlugOwl2Config(
        vision_config={"image_size": 24, "patch_size": 8, "layer_norm_eps": 1e-6, **VISION},
        text_config={"intermediate_size": 64, **text_settings(text)},
        image_token_id=len(text),
        num_query_tokens=5,
        abstractor_layers=2,
        abstractor_heads=2,
        abstractor_intermediate_size=48,
    )
    text.add_special_tokens({"extra_special_tokens": [mplug_owl2.IMAGE]})
    image_processor = mplug_owl2.MPlugOwl2ImageProcessor(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}
    )
    processor = mplug_owl2.MPlugOwl2Processor(
        image_processor, text, num_image_tokens=6, chat_template=mplug_owl2.CHAT
    )
    return MPlugOwl2ForConditionalGeneration(config), processor


def qwen_vl() -> tuple[Any, Any]:
    """Qwen-VL: a ViT of 24 pixels in patches of 8, resampled to 4 image tokens, Qwen-VL-Chat's
    template.
    """
    text = tokenizer(
        None, ["<|im_end|>", "<|endoftext|>", "<|im_start|>", "<img>", "</img>", "<imgpad>"]
    )
    config = QwenVLConfig(
        vision_config={"image_size": 24, "patch_size": 8, "num_positions": 4, **VISION},
        text_config={"intermediate_size": 64, "num_key_value_heads": HEADS, **text_settings(text)},
        image_token_id=text.convert_tokens_to_ids("<imgpad>"),
        image_seq_length=4,
        resampler_heads=HEADS,
    )
    image_processor = BlipImageProcessorPil(size={"height": 24, "width": 24})
    return QwenVLForConditionalGeneration(config), QwenVLProcessor(
        image_processor, text, 4, QWEN_VL_CHAT
    )
