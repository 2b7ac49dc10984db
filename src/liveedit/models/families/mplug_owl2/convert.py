"""The authors' checkpoint of mPLUG-Owl2 (``MAGAer13/mplug-owl2-llama2-7b``) to a folder that
``VLM.load`` reads.
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

TEXT = (  # what the authors' configuration and Llama's call alike
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *(
        "num_key_value_heads",
        "hidden_act",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
        "rope_scaling",
    ),
    *("attention_bias", "bos_token_id", "eos_token_id", "pad_token_id"),
)
VISION: dict[str, Any] = {  # what theirs and CLIP's call alike, with their defaults
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
ABSTRACTOR = {  # our names and theirs
    "num_query_tokens": "num_learnable_queries",
    "abstractor_layers": "num_hidden_layers",
    "abstractor_heads": "num_attention_heads",
    "abstractor_intermediate_size": "intermediate_size",
    "abstractor_layer_norm_eps": "layer_norm_eps",
}
NAMES = [  # the authors' names, as patterns, and ours; each is applied to what those before have left
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
FUSED = ".query_key_value."


def convert(weights: Path, out: Path) -> None:
    """Read the authors' folder ``weights`` and write ``out``, all or nothing; the weights keep
    their type.

    Weights are read from ``.bin`` or ``.safetensors`` files, whole or in parts, and mapped into
    memory, not loaded. Raises :class:`BadInput` where a file is missing, damaged or of another
    model, :class:`StorageError` where ``out`` cannot be written.
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
    """Our configuration from the authors'. Raises :class:`BadInput` for that of another model."""
    if settings.get("model_type") != "mplug_owl2" or not settings.get("visual_config"):
        raise BadInput(
            f"{weights} is not the authors' mPLUG-Owl2: give the folder of mplug-owl2-llama2-7b"
        )
    with reading(weights / "config.json"):
        tower, abstractor = (
            settings["visual_config"][name] for name in ("visual_model", "visual_abstractor")
        )
        config = MPlugOwl2Config(
            vision_config={name: tower.get(name, default) for name, default in VISION.items()},
            text_config={name: settings[name] for name in TEXT if name in settings},
            image_token_id=settings["vocab_size"],
            **{
                ours: abstractor[theirs]
                for ours, theirs in ABSTRACTOR.items()
                if theirs in abstractor
            },
        )
    config.architectures = [MPlugOwl2ForConditionalGeneration.__name__]
    return config


def read_processor(weights: Path, config: MPlugOwl2Config) -> MPlugOwl2Processor:
    """The authors' tokenizer, with the image token behind its vocabulary, and their image
    processor's settings.
    """
    pictures = MPlugOwl2ImageProcessor.from_dict(read_json(weights / "preprocessor_config.json"))
    if not (weights / "tokenizer.json").is_file():
        if not (weights / "tokenizer.model").is_file():
            raise BadInput(
                f"there is no {weights / 'tokenizer.model'}: get all of the checkpoint's files"
            )
        if not (is_sentencepiece_available() and is_protobuf_available()):
            raise BadInput(
                "reading tokenizer.model needs two packages more: pip install sentencepiece protobuf"
            )
    with reading(weights / "tokenizer.model"):
        llama = LlamaTokenizer.from_pretrained(weights)
    core = llama.backend_tokenizer
    # As SentencePiece reads every piece of text between images: with a blank of its own in front.
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.pre_tokenizer = None
    tokens = {
        name: getattr(llama, name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **tokens)
    if len(tokenizer) != config.image_token_id:
        known = f"{len(tokenizer)} tokens, and the model {config.image_token_id}"
        raise BadInput(f"the tokenizer in {weights} has {known}: get the checkpoint's own files")
    tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE]})
    return MPlugOwl2Processor(pictures, tokenizer, config.num_query_tokens + 1, CHAT)


def read_weights(weights: Path) -> dict[str, Tensor]:
    """All tensors of the checkpoint by the authors' names."""
    state: dict[str, Tensor] = {}
    for kind, file in (("safetensors", "model.safetensors"), ("bin", "pytorch_model.bin")):
        index = weights / f"{file}.index.json"
        if index.is_file():
            with reading(index):
                files = sorted(
                    set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
                )
        elif (weights / file).is_file():
            files = [file]
        else:
            continue
        for name in files:
            with reading(weights / name):
                state |= (
                    load_file(weights / name) if kind == "safetensors" else load_bin(weights / name)
                )
        return state
    raise BadInput(
        f"{weights} holds neither model.safetensors nor pytorch_model.bin: get all of the checkpoint's files"
    )


def load_bin(file: Path) -> dict[str, Tensor]:
    """The tensors of a file of PyTorch's, mapped into memory."""
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return state


def renamed(state: dict[str, Tensor], config: MPlugOwl2Config) -> dict[str, Tensor]:
    """The tensors by our names and in our shapes, those that we compute left out."""
    new: dict[str, Tensor] = {}
    for name, value in state.items():
        if COMPUTED.search(name):
            continue
        for pattern, ours in NAMES:
            name = re.sub(pattern, ours, name)
        if FUSED in name:
            for letter, each in zip(
                "qkv", parts(value, config.vision_config.num_attention_heads), strict=True
            ):
                new[name.replace(FUSED, f".{letter}_proj.")] = each
        else:
            new[name] = value
    for name in (
        "vision_tower.embeddings.class_embedding",
        "vision_tower.embeddings.position_embedding.weight",
    ):
        reshape(new, f"model.{name}")
    for name in ("queries", "end"):
        reshape(new, f"model.multi_modal_projector.{name}")
    return new


def parts(value: Tensor, heads: int) -> Iterator[Tensor]:
    """Query, key and value (D, …) of a fused weight or bias (3 · D, …), which holds those of each
    head together.
    """
    rows = value.reshape(heads, 3, -1, *value.shape[1:])
    return (rows[:, which].flatten(0, 1) for which in range(3))


def reshape(state: dict[str, Tensor], name: str) -> None:
    """Drop the leading axes of length 1 that the authors gave a tensor."""
    if name in state:
        ours = 1 if name.endswith("class_embedding") else 2
        state[name] = state[name].reshape(state[name].shape[-ours:])


def check(state: dict[str, Tensor], config: MPlugOwl2Config, weights: Path) -> None:
    """Raise :class:`BadInput` unless these are all the model's tensors, in its shapes, and no
    others.
    """
    with torch.device("meta"):
        wanted = {
            name: value.shape
            for name, value in MPlugOwl2ForConditionalGeneration(config).state_dict().items()
        }
    for name in sorted(wanted.keys() - state.keys()):
        raise BadInput(f"{weights} lacks the weights of {name}: get all of the checkpoint's files")
    for name in sorted(state.keys() - wanted.keys()):
        raise BadInput(
            f"{weights} holds {name}, which mPLUG-Owl2 has not: give the folder of mplug-owl2-llama2-7b"
        )
    for name, shape in wanted.items():
        if state[name].shape != shape:
            shapes = f"{tuple(state[name].shape)} in the file and {tuple(shape)} by its config.json"
            raise BadInput(f"{name} in {weights} is {shapes}: get the checkpoint's own files")


def read_json(file: Path) -> dict[str, Any]:
    """What a JSON file holds."""
    with reading(file):
        return dict(json.loads(file.read_text(encoding="utf-8-sig")))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong in reading ``path`` into one line that says so."""
    try:
        yield
    except FileNotFoundError:
        raise BadInput(f"there is no {path}: get all of the checkpoint's files") from None
    except Exception as error:  # of whichever library reads it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        raise BadInput(f"{path} is damaged ({reason}): get it again") from error
