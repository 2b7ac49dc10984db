"""A checkpoint of MiniGPT-4 from the files that its authors publish and build on.

| file or folder | holds | published by |
|---|---|---|
| `eva_vit_g.pth` | the vision tower | LAVIS |
| `blip2_pretrained_flant5xxl.pth` | Q-Former, its queries, the LayerNorm behind the tower | LAVIS |
| `*minigpt4*.pth` | the linear map into Vicuna; of the others what the authors trained on | MiniGPT-4 |
| `vicuna*/` | Vicuna v0 with its tokenizer, as Hugging Face has it | MiniGPT-4 |

As in the authors' code a later file wins over an earlier one, and what none of the model's weights
needs is left out: the text half of the Q-Former, the map into Flan-T5, and the last of the tower's
40 layers.
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

TOWER_LAYERS, TOWER_HEAD, QFORMER_HEAD = 39, 88, 64
"""How many layers of the tower are used, and the width of a head: what the weights do not tell."""

NAMES = {  # parts of our names by parts of the authors', replaced one after the other
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
    """Read the authors' files in the folder ``weights`` and write a checkpoint that ``VLM.load``
    reads to ``out``.

    All or nothing: a conversion that fails leaves ``out`` as it was. Raises :class:`BadInput` for a
    file that is missing, damaged or of another model, and for an ``out`` that is there already;
    :class:`StorageError` where it cannot be written.
    """
    check_new(out)
    model, processor = assemble(expanded(weights))
    with new_folder(out) as part:
        model.save_pretrained(part)
        processor.save_pretrained(part)


def assemble(weights: Path) -> tuple[Any, Any]:
    """Model and processor from the authors' files in the folder ``weights``."""
    vicuna = found(weights, "vicuna*", "the folder of Vicuna v0")
    tower = read(found(weights, "eva_vit_g.pth", "LAVIS' vision tower"))
    theirs = {f"visual_encoder.{name}": value for name, value in tower.items()}
    theirs |= read(found(weights, "blip2_pretrained_flant5xxl.pth", "LAVIS' Q-Former"), "model")
    theirs |= read(found(weights, "*minigpt4*.pth", "MiniGPT-4's own weights"), "model")
    if not (vicuna / "tokenizer.json").exists() and find_spec("sentencepiece") is None:
        raise BadInput(
            "Vicuna's tokenizer.model is read by sentencepiece: pip install sentencepiece protobuf"
        )
    with reading(vicuna):
        llama, report = transformers.LlamaForCausalLM.from_pretrained(
            vicuna, dtype="auto", output_loading_info=True
        )
        tokenizer = transformers.LlamaTokenizer.from_pretrained(
            vicuna, legacy=True
        )  # a blank before every part
    if report["missing_keys"]:
        raise BadInput(
            f"the folder {vicuna} lacks {sorted(report['missing_keys'])[0]}: get all of its files"
        )
    tokenizer.init_kwargs["legacy"] = True  # or it would not be saved
    tokenizer.add_tokens(
        [transformers.AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True
    )
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    make_room(llama, image_token)
    config = settings(theirs, llama.config, image_token)
    with torch.device("meta"):
        model = MiniGPT4ForConditionalGeneration(config)
    model.language_model = llama
    own = {name: value for name, value in model.named_parameters() if value.is_meta}
    state = {name: pick(theirs, name, value, llama.dtype) for name, value in own.items()}
    model.load_state_dict(state, strict=False, assign=True)
    size = config.vision_config.image_size
    pictures = BlipImageProcessorPil(size={"height": size, "width": size})
    return model, MiniGPT4Processor(pictures, tokenizer, config.num_query_tokens, CHAT)


def found(weights: Path, pattern: str, what: str) -> Path:
    """The one file or folder in ``weights`` of such a name. Raises :class:`BadInput` for none and
    for several.
    """
    files = sorted(weights.glob(pattern))
    if len(files) != 1:
        raise BadInput(
            f"{weights} holds {len(files) or 'no'} {pattern}: put {what} there, and nothing else of the name"
        )
    return files[0]


def read(file: Path, within: str | None = None) -> dict[str, Tensor]:
    """The weights by name in a file of PyTorch's. Raises :class:`BadInput` for one that cannot be
    read.
    """
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
        state = stored if within is None else stored[within]
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
        raise BadInput(f"{file} is damaged or another file: get it again") from error


@torch.no_grad()
def make_room(llama: Any, token: int) -> None:
    """Rows for ``token`` in both embeddings, of zeros: no text reads the one, and the other's logit
    is always 0.
    """
    rows = llama.get_input_embeddings().weight.shape[0]
    if token >= rows:
        llama.resize_token_embeddings(token + 1, mean_resizing=False)
        for embedding in (llama.get_input_embeddings(), llama.get_output_embeddings()):
            nn.init.zeros_(embedding.weight[rows:])


def settings(theirs: dict[str, Tensor], text: Any, image_token: int) -> MiniGPT4Config:
    """The configuration that the shapes of the weights tell."""
    patch = need(theirs, "visual_encoder.patch_embed.proj.weight")
    width, side = patch.shape[0], patch.shape[-1]
    patches = need(theirs, "visual_encoder.pos_embed").shape[1] - 1
    queries = need(theirs, "query_tokens")
    vision = {
        "hidden_size": width,
        "intermediate_size": need(theirs, "visual_encoder.blocks.0.mlp.fc1.weight").shape[0],
        "num_hidden_layers": min(TOWER_LAYERS, count(theirs, "visual_encoder.blocks.")),
        "num_attention_heads": width // TOWER_HEAD,
        "image_size": round(patches**0.5) * side,
        "patch_size": side,
    }
    qformer = {
        "hidden_size": queries.shape[-1],
        "intermediate_size": need(
            theirs, "Qformer.bert.encoder.layer.0.intermediate_query.dense.weight"
        ).shape[0],
        "num_hidden_layers": count(theirs, "Qformer.bert.encoder.layer."),
        "num_attention_heads": queries.shape[-1] // QFORMER_HEAD,
    }
    return MiniGPT4Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=queries.shape[1],
        image_token_index=image_token,
        dtype=text.dtype,
    )


def count(theirs: dict[str, Tensor], prefix: str) -> int:
    """How many layers have weights whose names begin with ``prefix`` and a number."""
    return len(
        {name.removeprefix(prefix).partition(".")[0] for name in theirs if name.startswith(prefix)}
    )


def need(theirs: dict[str, Tensor], name: str) -> Tensor:
    """A weight by the authors' name. Raises :class:`BadInput` if no file has it."""
    if name not in theirs:
        raise BadInput(f"no file has the weight {name}: get all of MiniGPT-4's files again")
    return theirs[name]


def pick(theirs: dict[str, Tensor], ours: str, wanted: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight that our model calls ``ours``, in the shape of ``wanted``.

    In ``dtype``, but for the Q-Former's, which ``transformers`` keeps in float32. Raises
    :class:`BadInput` for a weight that is missing or of another shape.
    """
    name = ours
    for part, their in NAMES.items():
        name = name.replace(part, their)
    if name.endswith("attn.qkv.bias"):  # the keys have none
        query, value = (
            need(theirs, name.replace("qkv.bias", bias)) for bias in ("q_bias", "v_bias")
        )
        weight = torch.cat([query, torch.zeros_like(value), value])
    else:
        weight = need(theirs, name)
    if weight.shape != wanted.shape:
        raise BadInput(
            f"the weight {name} is {tuple(weight.shape)}, not {tuple(wanted.shape)}: get the files again"
        )
    return weight.to(torch.float32 if ours.startswith(("qformer", "query_tokens")) else dtype)
