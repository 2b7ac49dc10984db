"""Checkpoints of tiny models that vLLM reads, and engines of them in this process."""

import gc
import json
import os
from contextlib import contextmanager

import torch
import transformers
from safetensors.torch import load_file, save_file

from liveedit.models.tiny.families import spread
from liveedit.models.tiny.shrink import shrink
from liveedit.models.vlm import VLM

VARIABLES = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_PLUGINS": "liveedit",
}
OPTIONS = {
    "enforce_eager": True,
    "dtype": "float32",
    "limit_mm_per_prompt": {"image": 1},
    "max_model_len": 512,
    "max_num_seqs": 8,
}


def checkpoint(model_type, folder):
    """Write a random tiny model of a type as the published checkpoints of that type are."""
    torch.manual_seed(0)
    model, processor = shrink(model_type)
    if model_type.startswith("qwen"):
        _name_qwens(model.config, processor)
        model = type(model)(model.config)
    if hasattr(model.config.vision_config, "num_attention_heads"):
        model.config.vision_config.vision_use_head = False  # SigLIP's
    spread(model)
    model.float().save_pretrained(folder)
    processor.save_pretrained(folder)
    _add_video_processor(model_type, folder)
    _name_tower(folder / "model.safetensors")


START, END, IMAGE = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"
"""Qwen's tokens: the marks around an image, and the image's."""


def _name_qwens(config, processor):
    """Qwens' checkpoints name these tokens, and say how positions are shared by three axes."""
    tokenizer = processor.tokenizer
    tokenizer.image_token = processor.image_token = IMAGE
    for name, token in (("vision_start", START), ("vision_end", END), ("image", IMAGE)):
        setattr(config, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
    rope = config.text_config.rope_parameters
    rope["mrope_section"] = [4, 6, 6]
    if config.model_type == "qwen3_vl":
        rope["mrope_interleaved"] = True
    if config.model_type == "qwen2_vl":  # whose tower names the width of its output so
        config.vision_config.hidden_size = config.text_config.hidden_size


def read(model_type, folder):
    """The checkpoint as a VLM whose prompts are vLLM's."""
    vlm = VLM.load(folder, dtype=torch.float32)
    if hasattr(vlm, "mark") and model_type.startswith("qwen"):
        vlm.mark = f"{START}{vlm.mark}{END}"
    return vlm


def _add_video_processor(model_type, folder):
    """Checkpoints of types that see videos have a processor for them, which needs torchvision."""
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

    found = VIDEO_PROCESSOR_MAPPING_NAMES.get(model_type)
    if found is None:
        return
    made = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    names = ("patch_size", "temporal_patch_size", "merge_size", "size", "crop_size")
    sizes = {name: made[name] for name in names if name in made}
    getattr(transformers, found["torchvision"])(**sizes).save_pretrained(folder)


def _name_tower(file):
    """Published checkpoints name a tower's weights within `vision_model`, without its head's."""
    weights = {}
    for name, value in load_file(file).items():
        before, tower, rest = name.partition("vision_tower.")
        if rest.startswith("head."):
            continue
        inside = "" if rest.startswith("vision_model.") or not rest else "vision_model."
        weights[before + tower + inside + rest] = value
    save_file(weights, file, {"format": "pt"})


@contextmanager
def engine(model, store, **options):
    """An engine of vLLM in this process whose edits are in a store."""
    os.environ.update(VARIABLES, LIVEEDIT_STORE=str(store))
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    try:
        yield LLM(str(model), **OPTIONS | options)
    finally:
        gc.collect()
        cleanup_dist_env_and_memory()


def prompt(vlm, query):
    """A query as vLLM takes it."""
    shown = {"multi_modal_data": {"image": list(query.images)}} if query.images else {}
    return {"prompt": vlm.render(vlm.flat(query)), **shown}


def choices(vlm, tokens, **extra):
    """Greedy answers of so many tokens, with the ends of this project's engine."""
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=tokens, temperature=0, stop_token_ids=list(vlm.stops), extra_args=extra or None
    )
