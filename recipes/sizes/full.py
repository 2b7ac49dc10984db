"""The papers' five backbones at full size with random weights, on any device.

On the meta device they need no memory. The settings are those of the authors' configurations. The
tokenizer is that of the tiny models, with a few hundred tokens, so nothing is downloaded: the cost
of a query depends on the number of its tokens, not on which they are.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from liveedit.models.families.minigpt4.family import IMAGE_TOKEN, MiniGPT4Config, MiniGPT4Processor
from liveedit.models.families.mplug_owl2 import family as mplug_owl2
from liveedit.models.families.mplug_owl2.modeling import MPlugOwl2Config
from liveedit.models.families.qwen_vl.family import QwenVLProcessor
from liveedit.models.families.qwen_vl.modeling import QwenVLConfig
from liveedit.models.tiny.tokenizer import tokenizer
from liveedit.models.vlm import VLM

__all__ = ["FULL", "full"]

CLIP = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
}


def full(name: str, device: torch.device | str) -> VLM:
    """A backbone in bfloat16 with raw prompts, whose answers never end early.

    Raises ``KeyError`` for an unknown name.
    """
    config, processor = FULL[name]()
    with torch.device(device):
        model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.generation_config.eos_token_id = None
    return VLM(model, processor, "raw")


def blip2() -> tuple[Any, Any]:
    """BLIP2-OPT-2.7B: ViT-g of 224 pixels and a Q-Former, the defaults of the class."""
    text = tokenizer("</s>", ["</s>", "<pad>", "<image>"])
    text.image_token = transformers.AddedToken("<image>", normalized=False, special=True)
    opt = {"hidden_size": 2560, "word_embed_proj_dim": 2560, "ffn_dim": 10240, "vocab_size": 50304}
    config = transformers.Blip2Config(
        text_config={
            "model_type": "opt",
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            **opt,
        },
        image_token_index=text.convert_tokens_to_ids("<image>"),
    )
    pictures = BlipImageProcessorPil(size={"height": 224, "width": 224})
    return config, transformers.Blip2Processor(pictures, text, num_query_tokens=32)


def minigpt4() -> tuple[Any, Any]:
    """MiniGPT-4: the same vision, and Vicuna-7B with a row for the image token."""
    text = tokenizer("<s>", ["</s>", "<pad>", IMAGE_TOKEN])
    image = text.convert_tokens_to_ids(IMAGE_TOKEN)
    config = MiniGPT4Config(text_config={**LLAMA, "vocab_size": 32001}, image_token_index=image)
    pictures = BlipImageProcessorPil(size={"height": 224, "width": 224})
    return config, MiniGPT4Processor(pictures, text, 32)


def llava() -> tuple[Any, Any]:
    """LLaVA-1.5-7B: CLIP ViT-L of 336 pixels, two matrices, Vicuna-7B."""
    text = tokenizer("<s>", ["</s>", "<pad>", "<image>"])
    config = transformers.LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "image_size": 336,
            "patch_size": 14,
            **CLIP,
        },
        text_config={**LLAMA, "vocab_size": 32064},
        image_token_index=text.convert_tokens_to_ids("<image>"),
    )
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
    )
    layout = {
        "patch_size": 14,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    return config, transformers.LlavaProcessor(pictures, text, **layout)


def owl2() -> tuple[Any, Any]:
    """mPLUG-Owl2: CLIP ViT-L of 448 pixels, an abstractor, Llama-2-7B with weights for images."""
    text = tokenizer("<s>", ["</s>", "<pad>"])
    text.add_special_tokens({"extra_special_tokens": [mplug_owl2.IMAGE]})
    config = MPlugOwl2Config(
        vision_config={"image_size": 448, "patch_size": 14, **CLIP},
        text_config={**LLAMA, "vocab_size": 32000},
        image_token_id=text.convert_tokens_to_ids(mplug_owl2.IMAGE),
    )
    sizes = {"size": {"shortest_edge": 448}, "crop_size": {"height": 448, "width": 448}}
    return config, mplug_owl2.MPlugOwl2Processor(mplug_owl2.MPlugOwl2ImageProcessor(**sizes), text)


def qwen_vl() -> tuple[Any, Any]:
    """Qwen-VL: ViT-bigG of 448 pixels and a resampler, the defaults of the class, and Qwen-7B."""
    text = tokenizer(
        None, ["<|im_end|>", "<|endoftext|>", "<|im_start|>", "<img>", "</img>", "<imgpad>"]
    )
    config = QwenVLConfig(
        text_config={"vocab_size": 151936, "hidden_size": 4096, "num_key_value_heads": 32},
        image_token_id=text.convert_tokens_to_ids("<imgpad>"),
    )
    return config, QwenVLProcessor(BlipImageProcessorPil(size={"height": 448, "width": 448}), text)


FULL: dict[str, Callable[[], tuple[Any, Any]]] = {
    "blip2-opt-2.7b": blip2,
    "minigpt4-vicuna-7b": minigpt4,
    "llava-1.5-7b": llava,
    "mplug-owl2-7b": owl2,
    "qwen-vl-7b": qwen_vl,
}
"""Configuration and processor of each backbone, by the names in ``recipes/published``."""
