"""Converter from the original checkpoints of Qwen-VL and Qwen-VL-Chat to Hugging Face format.

It reads ``config.json``, ``generation_config.json`` (whose ``chat_format`` tells the two models
apart), ``qwen.tiktoken``, and the weights in ``.bin`` or ``.safetensors`` files, whole or in
shards. Weights keep their type; query, key and value of an attention layer, one matrix in the
original, become three.
"""

import base64
import binascii
import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, normalizers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from liveedit.artifacts import check_new, new_folder
from liveedit.errors import BadInput
from liveedit.models.families.qwen_vl.family import CHAT, QwenVLProcessor
from liveedit.models.families.qwen_vl.modeling import QwenVLConfig, QwenVLForConditionalGeneration
from liveedit.types import expanded

__all__ = ["convert"]

NAMES = (  # parts of original names and their replacements, applied one after the other
    ("transformer.wte.", "model.language_model.embed_tokens."),
    ("transformer.ln_f.", "model.language_model.norm."),
    ("transformer.h.", "model.language_model.layers."),
    (".ln_1.", ".input_layernorm."),
    (".ln_2.", ".post_attention_layernorm."),
    (".attn.c_attn.", ".self_attn.qkv_proj."),
    (".attn.c_proj.", ".self_attn.o_proj."),
    (".mlp.w1.", ".mlp.up_proj."),
    (".mlp.w2.", ".mlp.gate_proj."),
    (".mlp.c_proj.", ".mlp.down_proj."),
    ("transformer.visual.transformer.resblocks.", "model.vision_tower.layers."),
    ("transformer.visual.conv1.", "model.vision_tower.patch_embedding."),
    ("transformer.visual.positional_embedding", "model.vision_tower.position_embedding"),
    ("transformer.visual.ln_pre.", "model.vision_tower.pre_layernorm."),
    ("transformer.visual.attn_pool.", "model.multi_modal_projector."),
    ("transformer.visual.ln_post.", "model.multi_modal_projector.norm_out."),
    ("transformer.visual.proj", "model.multi_modal_projector.proj.weight"),
    (".attn.in_proj_", ".attention.qkv_proj."),
    ("projector.attn.", "projector.attention."),
    ("projector.pos_embed", "projector.position_embedding"),
    ("projector.query", "projector.queries"),
    ("projector.ln_q.", "projector.norm_queries."),
    ("projector.ln_kv.", "projector.norm_patches."),
)
VISION_NAMES = (  # further replacements in a layer of the vision tower
    (".input_layernorm.", ".layer_norm1."),
    (".post_attention_layernorm.", ".layer_norm2."),
    (".attn.in_proj.", ".self_attn.qkv_proj."),
    (".attn.out_proj.", ".self_attn.out_proj."),
    (".mlp.c_fc.", ".fc1."),
    (".mlp.down_proj.", ".fc2."),
)
BUFFERS = (".attn.masked_bias", ".attn.bias", "rotary_emb.inv_freq")
"""Ends of the names of buffers in older files; the model computes them by itself."""
END = "<|endoftext|>"
"""The token that ends a text; also the padding."""
TURN = "<|im_start|>"
"""The token that begins a turn of a chat."""
TURN_END = "<|im_end|>"
"""The token that ends a turn of a chat."""
MARKS = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", "<imgpad>")
SPECIAL = (END, TURN, TURN_END, *(f"<|extra_{index}|>" for index in range(205)), *MARKS)
"""Special tokens, in the order of their ids, which follow the vocabulary's."""
RELEASED = "convert Qwen-VL or Qwen-VL-Chat"


def convert(weights: Path, out: Path) -> None:
    """Convert the original checkpoint in the folder ``weights`` to one in the folder ``out``.

    A conversion that fails leaves ``out`` as it was. It takes as much memory as the largest of the
    files. Raises :class:`BadInput` where a file is missing, broken, or not of a Qwen-VL, and for an
    ``out`` that exists already; :class:`StorageError` where it cannot be written.
    """
    check_new(out)
    with new_folder(out) as part:
        write(expanded(weights), part)


def write(weights: Path, out: Path) -> None:
    """Write configuration, processor and weights to ``out``, each as transformers does."""
    settings = read_json(weights / "config.json")
    generation = weights / "generation_config.json"
    chat = generation.exists() and read_json(generation).get("chat_format") == "chatml"
    config = configuration(settings, weights)
    text = tokenizer(weights / "qwen.tiktoken", TURN_END if chat else END)
    if text.convert_tokens_to_ids("<img>") != settings["visual"].get("image_start_id"):
        raise BadInput(
            f"{weights / 'qwen.tiktoken'} is not the vocabulary of this config.json: "
            "download both again"
        )
    config.image_token_id = text.convert_tokens_to_ids("<imgpad>")
    config.save_pretrained(out)
    size = config.vision_config.image_size
    image_processor = BlipImageProcessorPil(size={"height": size, "width": size})
    template = CHAT if chat else None
    QwenVLProcessor(image_processor, text, config.image_seq_length, template).save_pretrained(out)
    stops = text.convert_tokens_to_ids([TURN_END, TURN, END] if chat else [END])
    GenerationConfig(eos_token_id=stops, pad_token_id=text.pad_token_id).save_pretrained(out)
    write_weights(weights, out, config)


def configuration(settings: dict[str, Any], weights: Path) -> QwenVLConfig:
    """Return the configuration for the original ``settings``.

    Raises :class:`BadInput` for those of another model, or with options that no released one has.
    """
    try:
        visual = settings["visual"]
        check_released(settings, weights)
        return QwenVLConfig(
            vision_config=vision_settings(visual),
            text_config=text_settings(settings),
            image_seq_length=visual.get("n_queries", 256),
            resampler_heads=visual["output_dim"] // 128,
            architectures=["QwenVLForConditionalGeneration"],
        )
    except (KeyError, TypeError) as error:
        raise BadInput(f"{weights / 'config.json'} is not that of a Qwen-VL: {RELEASED}") from error


def check_released(settings: dict[str, Any], weights: Path) -> None:
    """Raise :class:`BadInput` for options of the authors' code that no released model uses."""
    width = settings["kv_channels"] * settings["num_attention_heads"]
    plain = width == settings["hidden_size"] and settings["no_bias"]
    partly_rotary = settings.get("rotary_pct", 1.0) != 1.0
    if not plain or partly_rotary or settings.get("tie_word_embeddings", False):
        raise BadInput(f"{weights} has options that no released Qwen-VL has: {RELEASED}")


def vision_settings(visual: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the vision tower."""
    return {
        "hidden_size": visual["width"],
        "intermediate_size": int(visual["width"] * visual["mlp_ratio"]),
        "num_hidden_layers": visual["layers"],
        "num_attention_heads": visual["heads"],
        "image_size": visual["image_size"],
        "patch_size": visual["patch_size"],
    }


def text_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the text decoder."""
    rope_theta = float(settings["rotary_emb_base"])
    return {
        "vocab_size": settings["vocab_size"],
        "hidden_size": settings["hidden_size"],
        "intermediate_size": settings["intermediate_size"] // 2,  # w1 and w2 as one matrix
        "num_hidden_layers": settings["num_hidden_layers"],
        "num_attention_heads": settings["num_attention_heads"],
        "num_key_value_heads": settings["num_attention_heads"],
        "rms_norm_eps": settings["layer_norm_epsilon"],
        "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta},
        "max_position_embeddings": settings["max_position_embeddings"],
        "seq_length": settings["seq_length"],
        "use_dynamic_ntk": settings["use_dynamic_ntk"],
        "use_logn_attn": settings["use_logn_attn"],
    }


class Vocabulary(TikTokenConverter):  # type: ignore[misc]
    """Reads ``qwen.tiktoken`` as a byte-level BPE.

    The file has one line for each token: base64 of its bytes, and its rank.
    """

    @staticmethod
    def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
        """Return the rank of each token. Raises :class:`BadInput` for a file of another form."""
        lines = read(Path(tiktoken_url)).splitlines()
        try:
            ranks = {
                base64.b64decode(token, validate=True): int(rank)
                for token, rank in map(bytes.split, lines)
            }
        except (ValueError, binascii.Error) as error:
            raise BadInput(f"{tiktoken_url} is broken: download it again") from error
        if sorted(ranks.values()) != list(range(len(lines))) or len(ranks) < 256:
            raise BadInput(f"{tiktoken_url} is broken: download it again")
        return ranks


def tokenizer(file: Path, end: str) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a vocabulary file; ``end`` is the token that ends an answer."""
    core = Vocabulary(str(file), pattern=PRETOKENIZE_REGEX).converted()
    core.normalizer = normalizers.NFC()
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    core.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=end, pad_token=END)


def write_weights(weights: Path, out: Path, config: QwenVLConfig) -> None:
    """Write the weights, one file for each original file, and the index.

    Raises :class:`BadInput` unless they are those of the model, in its shapes.
    """
    with torch.device("meta"):
        wanted = QwenVLForConditionalGeneration(config).state_dict()
    files = weight_files(weights)
    shard_of: dict[str, str] = {}
    total = 0
    for number, file in enumerate(files, 1):
        shard = f"model-{number:05}-of-{len(files):05}.safetensors"
        state = read_shard(file, wanted, config.vision_config.num_attention_heads)
        save_file(state, out / shard, {"format": "pt"})
        shard_of |= dict.fromkeys(state, shard)
        total += sum(tensor.nbytes for tensor in state.values())
    if lacking := sorted(set(wanted) - set(shard_of)):
        raise BadInput(
            f"{weights} lacks {len(lacking)} weights, {lacking[0]} among them: get all of its files"
        )
    index = {"metadata": {"total_size": total}, "weight_map": shard_of}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def read_shard(file: Path, wanted: dict[str, Tensor], vision_heads: int) -> dict[str, Tensor]:
    """Return the weights in an original file by their names in Hugging Face format.

    Raises :class:`BadInput` for a weight that is not ``wanted`` or has another shape.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in load(file).items():
        if not name.endswith(BUFFERS):
            state |= converted(name, tensor, vision_heads)
    for name, tensor in state.items():
        if name not in wanted or tensor.shape != wanted[name].shape:
            raise BadInput(
                f"{file} holds {name} {tuple(tensor.shape)}, which this model has not: "
                "see its config.json"
            )
    return state


def converted(name: str, tensor: Tensor, vision_heads: int) -> dict[str, Tensor]:
    """Return an original weight by its new name; a fused one as query, key and value."""
    for original, replacement in NAMES:
        name = name.replace(original, replacement)
    in_tower = "vision_tower" in name
    if in_tower:
        for original, replacement in VISION_NAMES:
            name = name.replace(original, replacement)
    if ".qkv_proj." in name:
        if in_tower:  # query, key and value of the first head, then those of the second, …
            by_head = tensor.reshape(vision_heads, 3, -1, *tensor.shape[1:])
            tensor = by_head.transpose(0, 1).flatten(0, 2)
        parts = zip("qkv", tensor.chunk(3), strict=True)
        return {name.replace("qkv", letter): part.contiguous() for letter, part in parts}
    if name.endswith("projector.proj.weight"):
        tensor = tensor.T.contiguous()
    return {name: tensor}


def weight_files(weights: Path) -> list[Path]:
    """Return the files that hold the weights, by the index if there is one."""
    for index in sorted(weights.glob("*.index.json")):
        return [weights / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (weights / name).exists():
            return [weights / name]
    raise BadInput(
        f"{weights} holds no weights: "
        "give the folder with pytorch_model.bin.index.json and its files"
    )


def load(file: Path) -> dict[str, Tensor]:
    """Return the tensors in a file of weights."""
    if not file.exists():
        raise BadInput(f"{file} is missing: get all of the checkpoint's files")
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        return dict(torch.load(file, map_location="cpu", mmap=True, weights_only=True))
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        pickle.UnpicklingError,
        SafetensorError,
    ) as error:
        raise BadInput(f"{file} is broken: download it again") from error


def read(file: Path) -> bytes:
    """Return the bytes of a file."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadInput(
            f"cannot read {file} ({error.strerror}): get all of the checkpoint's files"
        ) from error


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    try:
        return dict(json.loads(read(file)))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file} is broken: download it again") from error
