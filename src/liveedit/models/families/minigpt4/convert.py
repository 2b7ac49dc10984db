"""Converter from MiniGPT-4's original checkpoint to Hugging Face format.

The original consists of files that several projects published:

| file or folder | holds | published by |
|---|---|---|
| `eva_vit_g.pth` | vision tower | LAVIS |
| `blip2_pretrained_flant5xxl.pth` | Q-Former, its queries, LayerNorm after the tower | LAVIS |
| `*minigpt4*.pth` | linear map into Vicuna, and further trained weights | MiniGPT-4 |
| `vicuna*/` | Vicuna v0 with its tokenizer, in Hugging Face format | MiniGPT-4 |

As in the authors' code, a later file overrides an earlier one. Weights that the model does not need
are left out: the text half of the Q-Former, the map into Flan-T5, and the last of the tower's 40
layers.
"""

from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from liveedit.artifacts import check_new, new_folder
from liveedit.errors import BadInput
from liveedit.models.families.minigpt4.family import (
    CHAT,
    IMAGE_TOKEN,
    MiniGPT4Config,
    MiniGPT4ForConditionalGeneration,
    MiniGPT4Processor,
)
from liveedit.models.vlm import reading
from liveedit.types import expanded

__all__ = ["convert"]

TOWER_LAYERS = 39
"""Number of layers of the vision tower that are used. The weights do not show it."""
TOWER_HEAD = 88
"""Width of an attention head of the vision tower."""
QFORMER_HEAD = 64
"""Width of an attention head of the Q-Former."""

NAMES = {  # parts of the names in Hugging Face format, and of the original, applied in this order
    "vision_model.embeddings.class_embedding": "visual_encoder.cls_token",
    "vision_model.embeddings.position_embedding": "visual_encoder.pos_embed",
    "vision_model.embeddings.patch_embedding": "visual_encoder.patch_embed.proj",
    "vision_model.encoder.layers": "visual_encoder.blocks",
    "vision_model.post_layernorm": "ln_vision",
    "layer_norm": "norm",
    "self_attn.projection": "attn.proj",
    "self_attn": "attn",
    "qformer.layernorm": "Qformer.bert.embeddings.LayerNorm",
    "qformer.encoder": "Qformer.bert.encoder",
    "attention.attention": "attention.self",
    "language_projection": "llama_proj",
}


def convert(weights: Path, out: Path) -> None:
    """Convert the original files in the folder ``weights`` to a checkpoint in the folder ``out``.

    A conversion that fails leaves ``out`` as it was. Raises :class:`BadInput` for a
    file that is missing, damaged or of another model, and for an ``out`` that exists already;
    :class:`StorageError` where it cannot be written.
    """
    check_new(out)
    model, processor = assemble(expanded(weights))
    with new_folder(out) as part:
        model.save_pretrained(part)
        processor.save_pretrained(part)


def assemble(weights: Path) -> tuple[Any, MiniGPT4Processor]:
    """Return model and processor from the original files in the folder ``weights``."""
    vicuna = found(weights, "vicuna*", "the folder of Vicuna v0")
    original = read_weights(weights)
    llama, tokenizer = read_vicuna(vicuna)
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    make_room(llama, image_token)
    config = configuration(original, llama.config, image_token)
    with torch.device("meta"):
        model = MiniGPT4ForConditionalGeneration(config)
    model.language_model = llama
    wanted = {name: value for name, value in model.named_parameters() if value.is_meta}
    state = {name: pick(original, name, value, llama.dtype) for name, value in wanted.items()}
    model.load_state_dict(state, strict=False, assign=True)
    size = config.vision_config.image_size
    image_processor = BlipImageProcessorPil(size={"height": size, "width": size})
    return model, MiniGPT4Processor(image_processor, tokenizer, config.num_query_tokens, CHAT)


def read_weights(weights: Path) -> dict[str, Tensor]:
    """Return all weights except Vicuna's, by their original names."""
    tower = read(found(weights, "eva_vit_g.pth", "LAVIS' vision tower"))
    original = {f"visual_encoder.{name}": value for name, value in tower.items()}
    qformer = found(weights, "blip2_pretrained_flant5xxl.pth", "LAVIS' Q-Former")
    original |= read(qformer, "model")
    original |= read(found(weights, "*minigpt4*.pth", "MiniGPT-4's own weights"), "model")
    return original


def read_vicuna(vicuna: Path) -> tuple[Any, Any]:
    """Return the Vicuna and its tokenizer, which has the image token added.

    Raises :class:`BadInput` where weights are missing, or where sentencepiece is not installed.
    """
    if not (vicuna / "tokenizer.json").exists() and find_spec("sentencepiece") is None:
        raise BadInput(
            "Vicuna's tokenizer.model is read by sentencepiece: pip install sentencepiece protobuf"
        )
    with reading(vicuna):
        llama, report = transformers.LlamaForCausalLM.from_pretrained(
            vicuna, dtype="auto", output_loading_info=True
        )
        # As in the authors' code, every part of a text gets a space in front.
        tokenizer = transformers.LlamaTokenizer.from_pretrained(vicuna, legacy=True)
    if report["missing_keys"]:
        raise BadInput(
            f"the folder {vicuna} lacks {sorted(report['missing_keys'])[0]}: get all of its files"
        )
    tokenizer.init_kwargs["legacy"] = True  # or it would not be saved
    image_token = transformers.AddedToken(IMAGE_TOKEN, special=True, normalized=False)
    tokenizer.add_tokens([image_token], special_tokens=True)
    return llama, tokenizer


def found(weights: Path, pattern: str, what: str) -> Path:
    """Return the one file or folder in ``weights`` that matches ``pattern``.

    Raises :class:`BadInput` for none and for several.
    """
    files = sorted(weights.glob(pattern))
    if len(files) != 1:
        raise BadInput(
            f"{weights} holds {len(files) or 'no'} {pattern}: "
            f"put {what} there, and nothing else of the name"
        )
    return files[0]


def read(file: Path, key: str | None = None) -> dict[str, Tensor]:
    """Return the tensors in a PyTorch file by name, or those under ``key`` in it.

    Raises :class:`BadInput` for a file that cannot be read.
    """
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
        state = stored if key is None else stored[key]
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}
    except (
        OSError,
        RuntimeError,
        EOFError,
        UnpicklingError,
        KeyError,
        AttributeError,
        TypeError,
    ) as error:
        raise BadInput(f"{file} is damaged or another file: download it again") from error


@torch.no_grad()
def make_room(llama: Any, token: int) -> None:
    """Extend both embeddings by rows of zeros up to ``token``.

    No text reads the new row of the input embedding, and the logit of the new token is always 0.
    """
    rows = llama.get_input_embeddings().weight.shape[0]
    if token >= rows:
        llama.resize_token_embeddings(token + 1, mean_resizing=False)
        for embedding in (llama.get_input_embeddings(), llama.get_output_embeddings()):
            nn.init.zeros_(embedding.weight[rows:])


def configuration(original: dict[str, Tensor], text: Any, image_token: int) -> MiniGPT4Config:
    """Return the configuration, read from the shapes of the weights."""
    queries = need(original, "query_tokens")
    return MiniGPT4Config(
        vision_config=vision_settings(original),
        qformer_config=qformer_settings(original),
        text_config=text,
        num_query_tokens=queries.shape[1],
        image_token_index=image_token,
        dtype=text.dtype,
    )


def vision_settings(original: dict[str, Tensor]) -> dict[str, int]:
    """Return the settings of the vision tower."""
    patch = need(original, "visual_encoder.patch_embed.proj.weight")  # (width, 3, side, side)
    width = patch.shape[0]
    side = patch.shape[-1]
    patches = need(original, "visual_encoder.pos_embed").shape[1] - 1  # less the class token
    return {
        "hidden_size": width,
        "intermediate_size": need(original, "visual_encoder.blocks.0.mlp.fc1.weight").shape[0],
        "num_hidden_layers": min(TOWER_LAYERS, count_layers(original, "visual_encoder.blocks.")),
        "num_attention_heads": width // TOWER_HEAD,
        "image_size": round(patches**0.5) * side,
        "patch_size": side,
    }


def qformer_settings(original: dict[str, Tensor]) -> dict[str, int]:
    """Return the settings of the Q-Former."""
    layers = "Qformer.bert.encoder.layer."
    width = need(original, "query_tokens").shape[-1]
    return {
        "hidden_size": width,
        "intermediate_size": need(original, f"{layers}0.intermediate_query.dense.weight").shape[0],
        "num_hidden_layers": count_layers(original, layers),
        "num_attention_heads": width // QFORMER_HEAD,
    }


def count_layers(original: dict[str, Tensor], prefix: str) -> int:
    """Return the number of layers, whose weights are named ``prefix``, a number and more."""
    within = [name.removeprefix(prefix) for name in original if name.startswith(prefix)]
    return len({name.partition(".")[0] for name in within})


def need(original: dict[str, Tensor], name: str) -> Tensor:
    """Return a weight by its original name. Raises :class:`BadInput` if no file has it."""
    if name not in original:
        raise BadInput(f"no file has the weight {name}: get all of MiniGPT-4's files again")
    return original[name]


def pick(original: dict[str, Tensor], name: str, wanted: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weight with this ``name`` in Hugging Face format, in the shape of ``wanted``.

    Its type is ``dtype``, or float32 in the Q-Former, as transformers keeps it. Raises
    :class:`BadInput` for a weight that is missing or of another shape.
    """
    source = name
    for part, original_part in NAMES.items():
        source = source.replace(part, original_part)
    if source.endswith("attn.qkv.bias"):
        weight = fused_bias(original, source)
    else:
        weight = need(original, source)
    if weight.shape != wanted.shape:
        raise BadInput(
            f"the weight {source} is {tuple(weight.shape)}, not {tuple(wanted.shape)}: "
            "get the files again"
        )
    in_qformer = name.startswith(("qformer", "query_tokens"))
    return weight.to(torch.float32 if in_qformer else dtype)


def fused_bias(original: dict[str, Tensor], source: str) -> Tensor:
    """Return the bias of query, key and value (3 · width,); the keys have none, so it is 0."""
    query = need(original, source.replace("qkv.bias", "q_bias"))
    value = need(original, source.replace("qkv.bias", "v_bias"))
    return torch.cat([query, torch.zeros_like(value), value])
