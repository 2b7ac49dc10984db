"""Vision-language models: the families by Hugging Face ``model_type``, and finding a checkpoint.

Importing this package loads neither torch nor transformers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liveedit.artifacts import check_open
from liveedit.errors import BadInput, UnsupportedModel
from liveedit.registry import resolve
from liveedit.types import expanded

__all__ = [
    "AUTHORS",
    "CONVERTERS",
    "FAMILIES",
    "REFUSED",
    "Checked",
    "check_authors",
    "checked",
    "checkpoint",
    "family",
    "known_types",
]

FAMILIES: dict[str, str] = {
    "blip-2": "liveedit.models.families.blip2:Blip2",
    "chameleon": "liveedit.models.families.chameleon:Chameleon",
    "emu3": "liveedit.models.families.emu3:Emu3",
    "fuyu": "liveedit.models.families.fuyu:Fuyu",
    "gemma3n": "liveedit.models.families.gemma3n:Gemma3n",
    "gemma4": "liveedit.models.families.gemma4:Gemma4",
    "gemma4_unified": "liveedit.models.families.gemma4:Gemma4Unified",
    "git": "liveedit.models.families.git:Git",
    "granite4_vision": "liveedit.models.families.granite4_vision:Granite4Vision",
    "hunyuan_vl": "liveedit.models.families.hunyuan_vl:HunYuanVL",
    "idefics2": "liveedit.models.families.idefics2:Idefics2",
    "inkling2": "liveedit.models.families.inkling2:Inkling2",
    "instructblip": "liveedit.models.families.instructblip:InstructBlip",
    "kosmos-2": "liveedit.models.families.kosmos:Kosmos2",
    "kosmos-2.5": "liveedit.models.families.kosmos:Kosmos25",
    "llama4": "liveedit.models.families.llama4:Llama4",
    "llava": "liveedit.models.families.llava:Llava",
    "minicpm_ocr": "liveedit.models.families.minicpm:MiniCPMV",
    "minicpmv4_6": "liveedit.models.families.minicpm:MiniCPMV",
    "minicpmv4_7": "liveedit.models.families.minicpm:MiniCPMV",
    "minigpt4": "liveedit.models.families.minigpt4.family:MiniGPT4",
    "molmo2": "liveedit.models.families.molmo2:Molmo2",
    "mplug_owl2": "liveedit.models.families.mplug_owl2.family:MPlugOwl2",
    "nemotron_h_omni": "liveedit.models.families.nemotron_h_omni:NemotronHOmni",
    "paligemma": "liveedit.models.families.paligemma:PaliGemma",
    "perception_lm": "liveedit.models.families.perception_lm:PerceptionLM",
    "pp_chart2table": "liveedit.models.families.pp_chart2table:PPChart2Table",
    "qwen2_vl": "liveedit.models.families.qwen2_vl:Qwen2VL",
    "qwen4_exp": "liveedit.models.families.qwen4_exp:Qwen4Exp",
    "qwen_vl": "liveedit.models.families.qwen_vl.family:QwenVL",
}

CONVERTERS: dict[str, str] = {
    "minigpt4": "liveedit.models.families.minigpt4.convert:convert",
    "mplug_owl2": "liveedit.models.families.mplug_owl2.convert:convert",
    "qwen_vl": "liveedit.models.families.qwen_vl.convert:convert",
}
"""Converters from authors' original checkpoints to Hugging Face format.

They are for models that transformers does not have.
"""

AUTHORS = {"MPLUGOwl2LlamaForCausalLM": "mplug_owl2", "QWenLMHeadModel": "qwen_vl"}
"""Classes of authors' own code, as named in their checkpoints, and the converter for each."""

LLAVA = {"mm_vision_tower", "mm_projector_type", "mm_hidden_size"}
"""Settings in the configs of LLaVA's authors that transformers' configs do not have."""

SETTINGS = (
    *("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"),
)
"""The JSON files of a checkpoint, each of which holds an object."""

REFUSED = {
    "diffusion_gemma": "it writes by diffusion, not token by token",
    "evolla": "it reads proteins, not images",
    "instructblipvideo": "it reads videos alone",
    "mistral4": "it reads no images",
    "pi0": "it outputs robot actions, not text",
    "pp_formulanet": "its decoder attends to the output of an encoder in every layer",
    "shieldgemma2": "it classifies by questions of its own",
    "udop": "its decoder attends to the output of an encoder in every layer",
    "vision-encoder-decoder": "its decoder attends to the output of an encoder in every layer",
}
"""Model types of transformers that cannot be edited, and why.

The generic family refuses further types when it inspects a model.
"""

GENERIC = "liveedit.models.families.generic:Generic"
"""The family of all types that have none of their own."""


def family(model_type: str) -> Any:
    """The VLM class for a Hugging Face ``model_type``.

    Raises :class:`UnsupportedModel` for a type that cannot be edited.
    """
    if model_type in REFUSED and model_type not in FAMILIES:
        raise UnsupportedModel(
            f"models of type '{model_type}' cannot be edited: {REFUSED[model_type]}"
        )
    if model_type not in FAMILIES and model_type not in known_types():
        raise UnsupportedModel(
            f"no family reads models of type '{model_type}': "
            "`liveedit models` lists what can be read"
        )
    return resolve("model family", model_type, {model_type: GENERIC, **FAMILIES})


def check_authors(config: Mapping[str, Any], path: str | Path) -> None:
    """Raise :class:`UnsupportedModel` for the config of a checkpoint in its authors' own format."""
    for architecture in set(config.get("architectures") or ()) & set(AUTHORS):
        order = f"liveedit models convert {AUTHORS[architecture]} {path} OUT"
        raise UnsupportedModel(
            f"{path} is a checkpoint for its authors' code: make one for this with `{order}`"
        )
    if "text_config" not in config and LLAVA & config.keys():
        raise UnsupportedModel(
            f"{path} is a checkpoint for the code of LLaVA's authors: "
            "take the one for transformers, such as llava-hf/llava-1.5-7b-hf, "
            "or make it with transformers' convert_llava_weights_to_hf.py"
        )


def known_types() -> list[str]:
    """The model types that transformers reads as models of images and text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


@dataclass(frozen=True, slots=True)
class Checked:
    """Result of the contract on a tiny random model of a type.

    ``reason`` is why the type cannot be edited, ``None`` if every check holds. ``layers`` is the
    path of the decoder's layers, ``image`` the rule for the number of image tokens, ``prompts`` are
    the prompt formats that were run. ``several`` says whether a prompt may hold several images,
    ``note`` how the tiny model differs from a checkpoint.
    """

    family: str = ""
    model: str = ""
    layers: str = ""
    image: str = ""
    prompts: str = ""
    several: bool = False
    checks: int = 0
    reason: str | None = None
    note: str = ""


def checked() -> dict[str, Checked]:
    """The results of the last run of ``recipes/models_page.py``, by model type."""
    text = Path(__file__).with_name("checked.json").read_text(encoding="utf-8")
    return {model_type: Checked(**record) for model_type, record in json.loads(text).items()}


def checkpoint(path: str | Path) -> str:
    """``path`` in the form for ``from_pretrained``: an existing folder, or a Hugging Face id.

    Ids are looked up by :func:`reachable`. Raises :class:`BadInput`, without a request to the hub,
    for a path that can only be a folder and does not exist.
    """
    folder = expanded(path)
    text = str(path)
    check_open(folder)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise BadInput(
                f"{path} holds no config.json: give the folder of a Hugging Face checkpoint"
            )
        check_files(folder)
        return str(folder)
    is_path = isinstance(path, Path) or folder.exists() or text.startswith((".", "~", "/"))
    if is_path or text.count("/") != 1:
        raise BadInput(
            f"no model folder at {path}: "
            "check the path, or give a Hugging Face id such as owner/name"
        )
    return reachable(text)


def check_files(folder: Path) -> None:
    """Raise :class:`BadInput` for a damaged JSON file in a checkpoint's folder."""
    for file in (folder / name for name in SETTINGS):
        if file.is_file() and not holds_object(file):
            raise BadInput(
                f"cannot read the model {folder}: {file.name} is damaged, download it again"
            )


def holds_object(file: Path) -> bool:
    """Whether a file holds a JSON object."""
    try:
        return isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError, RecursionError):
        return False


def reachable(name: str) -> str:
    """A Hugging Face id or, if the hub does not answer, the folder of its copy in the cache.

    It makes one short request, where ``from_pretrained`` would retry for half a minute. Raises
    :class:`BadInput` for an id that the hub does not know, and for one without a copy in the cache
    if the hub does not answer.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=5)
    except RepositoryNotFoundError as error:
        reason = "check the id, and log in with `hf auth login` if it is a private one"
        raise BadInput(f"Hugging Face has no model {name}: {reason}") from error
    except Exception:  # from the HTTP library of the installed client, whichever it is
        try:
            return str(snapshot_download(name, local_files_only=True))
        except Exception as error:
            reason = (
                "Hugging Face cannot be reached, and this machine has no copy: "
                "go online, or give a folder"
            )
            raise BadInput(f"cannot read the model {name}: {reason}") from error
    return name
