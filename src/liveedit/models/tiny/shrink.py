"""A random tiny model of any type that transformers knows: its configuration with sizes shrunk.

Configuration, model and processor are of the type's real classes, so what holds here holds for a
checkpoint. Nothing is downloaded. Sizes are set by the name of the setting (:data:`TEXT`,
:data:`VISION`); :data:`OVERRIDES` holds, by type, the settings that cannot be derived from a name.
"""

import inspect
from collections.abc import Mapping
from importlib import import_module
from re import escape
from typing import Any

import transformers
from tokenizers import AddedToken, Regex, normalizers, processors
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from liveedit.errors import UnsupportedModel
from liveedit.models.processor import image_text_class, processor_class
from liveedit.models.tiny.tokenizer import tokenizer
from liveedit.models.tiny.type_overrides import MARKS, NAMED, OVERRIDES
from liveedit.models.tiny.without_timm import without_timm
from liveedit.models.tiny.without_torchvision import without_torchvision

__all__ = ["shrink"]

SIDE, PATCH = 32, 8
"""Pixels along an image's side and along a patch's."""
WIDTH, HEADS, HEAD = 64, 2, 32
"""The text decoder's width, its heads and the width of a head, wide enough for rotary positions in
three parts on a quarter of it.
"""

TEXT: dict[str, Any] = {
    **dict.fromkeys(["hidden_size", "d_model", "word_embed_proj_dim", "embed_dim"], WIDTH),
    **dict.fromkeys(["num_hidden_layers", "num_layers", "layers"], 4),
    **dict.fromkeys(["num_attention_heads", "attention_heads"], HEADS),
    **dict.fromkeys(
        [
            "intermediate_size",
            "ffn_dim",
            "moe_intermediate_size",
            "shared_expert_intermediate_size",
        ],
        64,
    ),
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "moe_topk", "moe_k"], 2),
    **dict.fromkeys(["linear_key_head_dim", "linear_value_head_dim"], 16),
    **dict.fromkeys(["linear_num_key_heads", "linear_num_value_heads"], 2),
    "logits_mup_width_multiplier": 2.0,  # divides logits: a real model's would flatten these
    "output_multiplier": 0.5,
    "num_key_value_heads": 1,
    "head_dim": HEAD,
    "max_position_embeddings": 4096,
}
VISION: dict[str, Any] = {
    **dict.fromkeys(["hidden_size", "embed_dim", "d_model", "encoder_hidden_size"], 32),
    **dict.fromkeys(["num_hidden_layers", "num_layers", "depth", "layers", "n_layers"], 2),
    **dict.fromkeys(
        ["num_attention_heads", "num_heads", "attention_heads", "num_key_value_heads"], 2
    ),
    **dict.fromkeys(["intermediate_size", "mlp_dim"], 48),
    **dict.fromkeys(["out_hidden_size", "text_hidden_size", "projection_dim", "output_dim"], WIDTH),
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "head_dim": 16,
    "image_size": SIDE,
    "patch_size": PATCH,
}
SEEING = (
    "vision",
    "visual",
    "vit",
    "audio",
    "qformer",
    "perceiver",
    "sam",
    "vq",
    "encoder_config",
    "adapter",
)
"""Words in the names of sub-configurations that do not belong to the text decoder."""


def shrink(model_type: str) -> tuple[Any, Any]:
    """A model of the type, its weights initialised by its class, and its processor.

    Raises :class:`UnsupportedModel` for a type that transformers does not know, or that lacks a
    processor.
    """
    if model_type not in CONFIG_MAPPING:
        raise UnsupportedModel(f"transformers knows no model type '{model_type}'")
    special = OVERRIDES.get(model_type, {})
    own = CONFIG_MAPPING[model_type]
    text = tokenizer_for(special)
    ends = {
        "bos_token_id": text.bos_token_id,
        "eos_token_id": text.eos_token_id,
        "pad_token_id": text.pad_token_id,
    }
    sizes = dict.fromkeys(("vocab_size", "unpadded_vocab_size"), len(text))
    settings = merged(settled(own(), TEXT, {**sizes, **ends}), special.get("config", {}))
    config = own(**settings)
    processor = processing(model_type, text, special)
    settings = merged(settings, tokens(config, processor))
    chosen: dict[str, Any] = {
        name: text.convert_tokens_to_ids(token) for name, token in special.get("tokens", {}).items()
    }
    if hasattr(config, "vocabulary_map"):
        chosen["vocabulary_map"] = text.get_vocab()
    config = own(**settings | chosen)
    kind = getattr(transformers, special.get("model_class", "AutoModelForImageTextToText"))
    build = getattr(kind, "from_config", kind)
    with without_timm():
        return build(config), processor


def settled(config: Any, sizes: Mapping[str, Any], words: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a configuration to change, those of its sub-configurations included.

    ``sizes`` are new values by name, ``words`` those that depend on the tokenizer.
    """
    settings: dict[str, Any] = {}
    defaults = {
        name: kind()
        for name, kind in config.sub_configs.items()
        if "vision" in name and hasattr(kind, "model_type")
    }
    given = {name: value for name, value in vars(config).items() if value is not None}
    for name, value in (defaults | given).items():
        if isinstance(value, PreTrainedConfig):
            inner = VISION if any(part in name for part in SEEING) else sizes
            settings[name] = {"model_type": value.model_type, **settled(value, inner, words)}
        elif name in words:
            settings[name] = words[name]
        elif name in sizes and isinstance(value, (int, float)):
            settings[name] = sizes[name]
        elif name in ("image_size", "patch_size") and isinstance(value, (list, tuple)):
            settings[name] = [sizes[name]] * len(value)
        elif name == "rope_parameters" and isinstance(value, dict) and "mrope_section" in value:
            pairs = int(HEAD * value.get("partial_rotary_factor", 1) / 2)
            settings[name] = value | {"mrope_section": sections(pairs)}
        elif name == "image_grid_pinpoints":
            settings[name] = PINPOINTS
    return settings


PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
"""Sizes to which images are cut up."""


def sections(pairs: int) -> list[int]:
    """Rotary pairs divided among time, height and width."""
    return [pairs - 2 * (pairs // 3), pairs // 3, pairs // 3]


def merged(settings: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The settings updated with ``more``, dictionaries within them likewise."""
    for name, value in more.items():
        inner = settings.get(name)
        if isinstance(inner, dict) and isinstance(value, dict):
            settings[name] = merged(dict(inner), value)
        else:
            settings[name] = value
    return settings


def tokens(config: Any, processor: Any) -> dict[str, Any]:
    """A configuration's ids of special tokens, looked up by name in processor and tokenizer."""
    ids: dict[str, Any] = {}
    for name, value in vars(config).items():
        stem = name.removesuffix("_id").removesuffix("_index")
        if isinstance(value, PreTrainedConfig) and (inner := tokens(value, processor)):
            ids[name] = value.to_dict() | inner
        elif (
            stem != name
            and stem.endswith("_token")
            and stem not in ("bos_token", "eos_token", "pad_token")
        ):
            token = getattr(processor, stem, None) or getattr(processor.tokenizer, stem, None)
            token = getattr(token, "content", token)
            if isinstance(token, str):
                ids[name] = processor.tokenizer.convert_tokens_to_ids(token)
    return ids


def processing(model_type: str, text: PreTrainedTokenizerFast, special: Mapping[str, Any]) -> Any:
    """The type's processor for images and text."""
    name = special.get("processor_class") or PROCESSOR_MAPPING_NAMES.get(model_type)
    if name is None:
        raise UnsupportedModel(f"transformers has no processor for the model type '{model_type}'")
    with without_torchvision():
        kind = processor_class(name)
    wanted = inspect.signature(kind).parameters
    parts = {
        "image_processor": image_processor(model_type, special),
        "tokenizer": text,
        "qformer_tokenizer": text,
    }
    absent = dict.fromkeys(("video_processor", "feature_extractor"))
    given = absent | parts | {"patch_size": PATCH} | special.get("processor", {})
    processor = image_text_class(kind)(
        **{name: value for name, value in given.items() if name in wanted}
    )
    for setting, value in special.get("asks", {}).items():
        setattr(processor, setting, value)
    if "qformer_tokenizer" in wanted:  # such processors want the token in the form of checkpoints
        processor.image_token = transformers.AddedToken(
            processor.image_token, normalized=False, special=True
        )
    return processor


def image_processor(model_type: str, special: Mapping[str, Any]) -> Any:
    """The type's image processor with sizes shrunk; one without torchvision where there is one."""
    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or {}
    name = special.get("image_processor_class") or names.get("pil") or names.get("torchvision")
    if name is None:
        raise UnsupportedModel(
            f"transformers has no image processor for the model type '{model_type}'"
        )
    with without_torchvision():
        kind = processor_class(name)
        if name == names.get("torchvision"):  # in its place transformers may give the other class
            kind = getattr(import_module(kind.__module__.replace("_pil_", "_")), name)
    settings: dict[str, Any] = {}
    for setting in ("size", "crop_size", "max_image_size", "patch_size", "image_grid_pinpoints"):
        value = getattr(kind, setting, None)
        if setting == "image_grid_pinpoints" and value is not None:
            settings[setting] = PINPOINTS
        elif isinstance(value, dict):
            settings[setting] = {edge: small(edge, pixels) for edge, pixels in value.items()}
            if setting == "patch_size":
                settings[setting] = dict.fromkeys(value, PATCH)
        elif isinstance(value, int):
            settings[setting] = PATCH if setting == "patch_size" else SIDE
    return kind(**settings | special.get("image_processor", {}))


def small(edge: str, pixels: int) -> int:
    """The size of an edge, or of an area if the number is too large for an edge."""
    if pixels > 4096:
        return 4 * SIDE * SIDE if edge == "longest_edge" else 4 * PATCH * PATCH
    return SIDE


def tokenizer_for(special: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """A tokenizer with all special tokens of :mod:`liveedit.models.tiny.type_overrides`.

    ``special`` are the overrides of a type: the tokenizer begins a text as the type's own does.
    """
    named = special.get("named", {})
    text = tokenizer(
        special.get("bos", "<s>"),
        ["</s>", "<pad>", "<unk>", *MARKS],
        480 + len(named),
        **NAMED | named,
    )
    text.unk_token = special.get("unk")
    if not special.get("begins", True):
        text.backend_tokenizer.post_processor = processors.ByteLevel()
    if spaced := special.get("spaced"):
        begin = Regex(rf"^{escape(spaced[0])}(?=.)")
        text.backend_tokenizer.normalizer = normalizers.Replace(begin, f" {spaced[0]}")
        text.add_tokens([AddedToken(token, normalized=True) for token in spaced])
    return text
