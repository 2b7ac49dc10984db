"""VLM families by Hugging Face ``model_type``. Importing this package loads neither torch nor transformers."""

from pathlib import Path
from typing import Any

from liveedit.errors import BadInput, UnsupportedModel
from liveedit.registry import resolve

__all__ = ["FAMILIES", "checkpoint", "family"]

FAMILIES: dict[str, str] = {
    "blip-2": "liveedit.models.blip2:Blip2",
    "gemma4": "liveedit.models.gemma4:Gemma4",
    "idefics2": "liveedit.models.idefics2:Idefics2",
    "instructblip": "liveedit.models.instructblip:InstructBlip",
    "llava": "liveedit.models.llava:Llava",
    "minicpmv4_6": "liveedit.models.minicpm:MiniCPMV",
    "minicpmv4_7": "liveedit.models.minicpm:MiniCPMV",
    "molmo2": "liveedit.models.molmo2:Molmo2",
    "paligemma": "liveedit.models.paligemma:PaliGemma",
    "qwen2_vl": "liveedit.models.qwen2_vl:Qwen2VL",
}


GENERIC = "liveedit.models.generic:Generic"
"""What reads a model whose type has no family of its own."""


def family(model_type: str) -> Any:
    """The VLM class for a Hugging Face ``model_type``. Raises :class:`UnsupportedModel` for one that none reads."""
    if model_type not in FAMILIES and model_type not in known_types():
        raise UnsupportedModel(
            f"no family reads models of type '{model_type}': `liveedit models` lists what can be read"
        )
    return resolve("model family", model_type, {model_type: GENERIC, **FAMILIES})


def known_types() -> list[str]:
    """The model types that transformers reads as models of images and text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def checkpoint(path: str | Path) -> str:
    """``path`` as ``from_pretrained`` takes it: an existing folder, or a Hugging Face id as it stands.

    Raises :class:`BadInput` for what can only be a folder and is not there, without asking the network.
    """
    folder, text = Path(path).expanduser(), str(path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise BadInput(f"{path} holds no config.json: give the folder of a Hugging Face checkpoint")
        return str(folder)
    if isinstance(path, Path) or folder.exists() or text.startswith((".", "~", "/")) or text.count("/") != 1:
        raise BadInput(f"no model folder at {path}: check the path, or give a Hugging Face id such as owner/name")
    return text
