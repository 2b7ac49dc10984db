"""Converter from mPLUG-Owl2's original checkpoint to Hugging Face format.

The original is the folder of ``MAGAer13/mplug-owl2-llama2-7b``: ``config.json``,
``preprocessor_config.json``, the tokenizer's files, and the weights in ``.bin`` or ``.safetensors``
files, whole or in parts. Weights keep their type; query, key and value of the vision tower, one
matrix in the original, become three.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from tokenizers import normalizers
from torch import Tensor
from transformers import GenerationConfig, LlamaTokenizer, PreTrainedTokenizerFast
from transformers.utils import is_protobuf_available, is_sentencepiece_available

from liveedit.artifacts import check_new, new_folder
from liveedit.errors import BadInput
from liveedit.models.families.mplug_owl2.family import (
    CHAT,
    IMAGE,
    MPlugOwl2ImageProcessor,
    MPlugOwl2Processor,
)
from liveedit.models.families.mplug_owl2.modeling import (
    MPlugOwl2Config,
    MPlugOwl2ForConditionalGeneration,
)
from liveedit.types import expanded

__all__ = ["convert"]

TEXT = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "attention_bias",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
"""Settings of the text decoder that have the same name in Llama's configuration."""
VISION: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 448,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-6,
}
"""Settings of the vision tower that have the same name in CLIP's, with the original's defaults."""
ABSTRACTOR = {
    "num_query_tokens": "num_learnable_queries",
    "abstractor_layers": "num_hidden_layers",
    "abstractor_heads": "num_attention_heads",
    "abstractor_intermediate_size": "intermediate_size",
    "abstractor_layer_norm_eps": "layer_norm_eps",
}
"""Settings of the abstractor: names in Hugging Face format and in the original."""
NAMES = [  # patterns of original names and their replacements, applied one after the other
    (r"^model\.(embed_tokens|layers|norm)\b", r"model.language_model.\1"),
    (r"\.multiway\.0\.", ".text."),
    (r"\.multiway\.1\.", ".image."),
    (r"^model\.vision_model\.", "model.vision_tower."),
    (r"\.cls_token$", ".class_embedding"),
    (r"\.patch_embed\.", ".patch_embedding."),
    (r"\.position_embedding$", ".position_embedding.weight"),
    (r"\.embeddings\.pre_layernorm\.", ".pre_layrnorm."),
    (r"(vision_tower\.encoder.+\.)input_layernorm\.", r"\1layer_norm1."),
    (r"(vision_tower\.encoder.+\.)post_attention_layernorm\.", r"\1layer_norm2."),
    (r"\.self_attn\.dense\.", ".self_attn.out_proj."),
    (r"^model\.visual_abstractor\.(encoder\.)?", "model.multi_modal_projector."),
    (r"\.crossattention\.(attention|output)\.", "."),
    (r"\.crossattention\.", "."),
    (r"\.query_embeds$", ".queries"),
    (r"\.visual_fc\.", ".linear."),
    (r"\.vit_eos$", ".end"),
    (r"\.query\.", ".q_proj."),
    (r"\.key\.", ".k_proj."),
    (r"\.value\.", ".v_proj."),
    (r"\.norm1\.", ".query_norm."),
    (r"\.normk\.", ".image_norm."),
    (r"\.norm2\.", ".mlp_norm."),
    (r"\.mlp\.ffn_ln\.", ".inner_norm."),
    (r"\.mlp\.w1\.", ".gate_proj."),
    (r"\.mlp\.w2\.", ".down_proj."),
    (r"\.mlp\.w3\.", ".up_proj."),
]
COMPUTED = re.compile(r"\.(inv_freq|[qk]_pos_embed|position_ids)$")
"""Tensors of the original that the model computes by itself."""
FUSED = ".query_key_value."
"""Part of the names of weights that hold query, key and value together."""


def convert(weights: Path, out: Path) -> None:
    """Convert the original checkpoint in the folder ``weights`` to one in the folder ``out``.

    A conversion that fails leaves ``out`` as it was. Weights are mapped into memory, not loaded.
    Raises :class:`BadInput` where a file is missing, damaged or of another model, and for an
    ``out`` that exists already; :class:`StorageError` where it cannot be written.
    """
    check_new(out)
    weights = expanded(weights)
    settings = read_json(weights / "config.json")
    config = model_config(settings, weights)
    processor = read_processor(weights, config)
    state = renamed(read_weights(weights), config)
    check(state, config, weights)
    with new_folder(out) as part:
        config.save_pretrained(part)
        GenerationConfig.from_model_config(config.text_config).save_pretrained(part)
        processor.save_pretrained(part)
        save_torch_state_dict(state, part)


def model_config(settings: dict[str, Any], weights: Path) -> MPlugOwl2Config:
    """Return the configuration for the original ``settings``.

    Raises :class:`BadInput` for those of another model.
    """
    if settings.get("model_type") != "mplug_owl2" or not settings.get("visual_config"):
        raise BadInput(
            f"{weights} is not the authors' mPLUG-Owl2: give the folder of mplug-owl2-llama2-7b"
        )
    with reading(weights / "config.json"):
        tower = settings["visual_config"]["visual_model"]
        abstractor = settings["visual_config"]["visual_abstractor"]
        known = {new: name for new, name in ABSTRACTOR.items() if name in abstractor}
        config = MPlugOwl2Config(
            vision_config={name: tower.get(name, default) for name, default in VISION.items()},
            text_config={name: settings[name] for name in TEXT if name in settings},
            image_token_id=settings["vocab_size"],
            **{new: abstractor[name] for new, name in known.items()},
        )
    config.architectures = [MPlugOwl2ForConditionalGeneration.__name__]
    return config


def read_processor(weights: Path, config: MPlugOwl2Config) -> MPlugOwl2Processor:
    """Return the processor: the original's settings for images, and its tokenizer."""
    image_processor = MPlugOwl2ImageProcessor.from_dict(
        read_json(weights / "preprocessor_config.json")
    )
    tokenizer = read_tokenizer(weights)
    if len(tokenizer) != config.image_token_id:
        known = f"{len(tokenizer)} tokens, and the model {config.image_token_id}"
        raise BadInput(f"the tokenizer in {weights} has {known}: get the checkpoint's own files")
    tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE]})
    return MPlugOwl2Processor(image_processor, tokenizer, config.num_query_tokens + 1, CHAT)


def read_tokenizer(weights: Path) -> PreTrainedTokenizerFast:
    """Return the original tokenizer, changed to read each piece of text between images by itself.

    As SentencePiece does, it puts a space before every piece.
    """
    check_tokenizer_files(weights)
    with reading(weights / "tokenizer.model"):
        llama = LlamaTokenizer.from_pretrained(weights)
    core = llama.backend_tokenizer
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.pre_tokenizer = None
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    tokens = {name: getattr(llama, name) for name in names}
    return PreTrainedTokenizerFast(tokenizer_object=core, **tokens)


def check_tokenizer_files(weights: Path) -> None:
    """Raise :class:`BadInput` unless the tokenizer's file is there, and the packages to read it."""
    if (weights / "tokenizer.json").is_file():
        return
    if not (weights / "tokenizer.model").is_file():
        raise BadInput(
            f"there is no {weights / 'tokenizer.model'}: get all of the checkpoint's files"
        )
    if not (is_sentencepiece_available() and is_protobuf_available()):
        raise BadInput(
            "reading tokenizer.model needs two more packages: pip install sentencepiece protobuf"
        )


def read_weights(weights: Path) -> dict[str, Tensor]:
    """Return all tensors of the checkpoint by their original names."""
    state: dict[str, Tensor] = {}
    for file in weight_files(weights):
        with reading(file):
            state |= load_file(file) if file.suffix == ".safetensors" else load_bin(file)
    return state


def weight_files(weights: Path) -> list[Path]:
    """Return the files that hold the weights, by the index if there is one."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = weights / f"{name}.index.json"
        if index.is_file():
            with reading(index):
                places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                return [weights / file for file in sorted(set(places.values()))]
        if (weights / name).is_file():
            return [weights / name]
    raise BadInput(
        f"{weights} holds neither model.safetensors nor pytorch_model.bin: "
        "get all of the checkpoint's files"
    )


def load_bin(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a PyTorch file, mapped into memory."""
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return state


def renamed(state: dict[str, Tensor], config: MPlugOwl2Config) -> dict[str, Tensor]:
    """Return the tensors by their names and in their shapes in Hugging Face format.

    Tensors that the model computes are left out.
    """
    heads = config.vision_config.num_attention_heads
    new: dict[str, Tensor] = {}
    for name, value in state.items():
        if COMPUTED.search(name):
            continue
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        if FUSED in name:
            for letter, each in zip("qkv", parts(value, heads), strict=True):
                new[name.replace(FUSED, f".{letter}_proj.")] = each
        else:
            new[name] = value
    squeeze(new, "model.vision_tower.embeddings.class_embedding", 1)
    squeeze(new, "model.vision_tower.embeddings.position_embedding.weight", 2)
    squeeze(new, "model.multi_modal_projector.queries", 2)
    squeeze(new, "model.multi_modal_projector.end", 2)
    return new


def parts(value: Tensor, heads: int) -> Iterator[Tensor]:
    """Yield query, key and value (D, …) of a fused weight or bias (3 · D, …).

    Its rows are ordered by head: query, key and value of the first head, then of the second.
    """
    rows = value.reshape(heads, 3, -1, *value.shape[1:])
    return (rows[:, which].flatten(0, 1) for which in range(3))


def squeeze(state: dict[str, Tensor], name: str, axes: int) -> None:
    """Drop the leading axes of length 1 of a tensor, so that ``axes`` are left."""
    if name in state:
        state[name] = state[name].reshape(state[name].shape[-axes:])


def check(state: dict[str, Tensor], config: MPlugOwl2Config, weights: Path) -> None:
    """Raise :class:`BadInput` unless these are the model's tensors, all of them, in its shapes."""
    with torch.device("meta"):
        empty = MPlugOwl2ForConditionalGeneration(config).state_dict()
    wanted = {name: value.shape for name, value in empty.items()}
    for name in sorted(wanted.keys() - state.keys()):
        raise BadInput(f"{weights} lacks the weights of {name}: get all of the checkpoint's files")
    for name in sorted(state.keys() - wanted.keys()):
        raise BadInput(
            f"{weights} holds {name}, which mPLUG-Owl2 does not have: "
            "give the folder of mplug-owl2-llama2-7b"
        )
    for name, shape in wanted.items():
        if state[name].shape != shape:
            shapes = f"{tuple(state[name].shape)} in the file and {tuple(shape)} by its config.json"
            raise BadInput(f"{name} in {weights} is {shapes}: get the checkpoint's own files")


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    with reading(file):
        return dict(json.loads(file.read_text(encoding="utf-8-sig")))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any error in reading ``path`` into a :class:`BadInput` of one line."""
    try:
        yield
    except FileNotFoundError:
        raise BadInput(f"there is no {path}: get all of the checkpoint's files") from None
    except Exception as error:  # of whichever library reads it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        raise BadInput(f"{path} is damaged ({reason}): download it again") from error
