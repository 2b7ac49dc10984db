"""VLM families by Hugging Face ``model_type``. Importing this package loads neither torch nor transformers."""

from pathlib import Path
from typing import Any

from liveedit.errors import BadInput, UnsupportedModel
from liveedit.registry import resolve

__all__ = ["FAMILIES", "checkpoint", "family"]

FAMILIES: dict[str, str] = {
    "blip-2": "liveedit.models.blip2:Blip2",
    "llava": "liveedit.models.llava:Llava",
    "minigpt4": "liveedit.models.minigpt4:MiniGPT4",
    "mplug_owl2": "liveedit.models.mplug_owl2:MPlugOwl2",
    "qwen2_vl": "liveedit.models.qwen2_vl:Qwen2VL",
    "qwen_vl": "liveedit.models.qwen_vl:QwenVL",
}


def family(model_type: str) -> Any:
    """The VLM class for a Hugging Face ``model_type``. Raises :class:`UnsupportedModel` for one that none reads."""
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise UnsupportedModel(f"no family reads models of type '{model_type}': use a model of type {known}")
    return resolve("model family", model_type, FAMILIES)


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
