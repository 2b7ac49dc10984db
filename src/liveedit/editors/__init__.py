"""Editing methods by name. Importing this package loads neither torch nor transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from liveedit.artifacts import check_open
from liveedit.errors import BadInput
from liveedit.registry import resolve
from liveedit.types import expanded

if TYPE_CHECKING:
    from liveedit.editors.base import Editor
    from liveedit.models.vlm import VLM

__all__ = ["EDITORS", "PAPERS", "load_editor", "new_editor"]

EDITORS: dict[str, str] = {
    "ft-l": "liveedit.editors.ft:FTL",
    "ft-m": "liveedit.editors.ft:FTM",
    "grace": "liveedit.editors.grace:GRACE",
    "ike": "liveedit.editors.ike:IKE",
    "ke": "liveedit.editors.ke:KE",
    "lemoe": "liveedit.editors.lemoe:LEMoE",
    "liveedit": "liveedit.editors.liveedit.editor:LiveEdit",
    "lora": "liveedit.editors.lora:LoRA",
    "lte": "liveedit.editors.lte:LTE",
    "mend": "liveedit.editors.mend:MEND",
    "pinpoint": "liveedit.editors.pinpoint.editor:Pinpoint",
    "recipe": "liveedit.editors.recipe:Recipe",
    "serac": "liveedit.editors.serac:Serac",
    "t-patcher": "liveedit.editors.tpatcher:TPatcher",
    "wise": "liveedit.editors.wise:WISE",
}

PAPERS: dict[str, str] = {
    "ft-l": "fine-tuning of the last layer, as compared in Chen et al., CVPR 2025, and Huang et al., NeurIPS 2024",
    "ft-m": "fine-tuning of what connects vision and text, as compared in the same papers",
    "grace": "Hartvigsen et al., Aging with GRACE: Lifelong Model Editing with Key-Value Adaptors, NeurIPS 2023",
    "ike": "Zheng et al., Can We Edit Factual Knowledge by In-Context Learning?, EMNLP 2023",
    "ke": "De Cao et al., Editing Factual Knowledge in Language Models, EMNLP 2021",
    "lemoe": "Wang and Li, LEMoE: Advanced Mixture of Experts Adaptor for Lifelong Model Editing, EMNLP 2024",
    "liveedit": "Chen et al., Lifelong Knowledge Editing for Vision Language Models with Low-Rank MoE, CVPR 2025",
    "lora": "Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022",
    "lte": "Jiang et al., Learning to Edit: Aligning LLMs with Knowledge Editing, ACL 2024",
    "mend": "Mitchell et al., Fast Model Editing at Scale, ICLR 2022",
    "pinpoint": "this package: LiveEdit with experts aligned to the answer and a stricter router (docs/explanation/papers.md)",
    "recipe": "Chen et al., Lifelong Knowledge Editing with Retrieval-Augmented Continuous Prompt Learning, EMNLP 2024",
    "serac": "Mitchell et al., Memory-Based Model Editing at Scale, ICML 2022",
    "t-patcher": "Huang et al., Transformer-Patcher: One Mistake Worth One Neuron, ICLR 2023",
    "wise": "Wang et al., WISE: Rethinking the Knowledge Memory for Lifelong Model Editing, NeurIPS 2024",
}
"""Where each method was published."""


def new_editor(
    vlm: "VLM", name: str, settings: Mapping[str, Any] | None = None, seed: int = 0
) -> "Editor":
    """An editor of the method ``name`` for ``vlm``, untrained if it has networks; ``settings``
    replace the defaults.

    ``seed`` draws the networks, whatever was drawn before, and leaves the caller's random numbers
    as they were. Raises :class:`UnknownName` for a method that is not registered, :class:`BadInput`
    for an unknown setting and for a seed beyond 32 bits.
    """
    import torch

    from liveedit.settings import check_seed

    editor = resolve("editor", name, EDITORS)
    check_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        with torch.inference_mode(
            False
        ):  # whose tensors could not be trained, nor edits be made with them
            return editor(vlm, editor.settings(settings or {}))  # type: ignore[no-any-return]


def load_editor(vlm: "VLM", source: str | Path) -> "Editor":
    """The editor for ``vlm``: an editor's folder or Hugging Face id, or a method's name if it needs
    no training.

    The folder of a method without training holds a ``config.json`` alone, with the method and its
    settings.

    Raises :class:`UnknownName` for a name that is not registered, :class:`BadInput` for a folder or
    id without an editor and for the name of a method that has to be trained, :class:`Mismatch` for
    an editor trained for another model.
    """
    import torch

    with torch.inference_mode(False):
        return _loaded(vlm, source)


def _loaded(vlm: "VLM", source: str | Path) -> "Editor":
    folder = expanded(source)
    check_open(folder)
    if not folder.is_dir() and "/" in str(source):
        folder = _download(str(source))
    elif not folder.is_dir():
        editor = resolve("editor", str(source), EDITORS)
        if hasattr(editor, "from_pretrained"):
            raise BadInput(
                f"{source} has to be trained for this model first: give the folder of a trained editor"
            )
        return editor(vlm)  # type: ignore[no-any-return]
    from liveedit.editors.base import described

    about = described(folder)
    editor = resolve("editor", about["editor"], EDITORS)
    if hasattr(editor, "from_pretrained"):
        return editor.from_pretrained(vlm, folder)  # type: ignore[no-any-return]
    return editor(vlm, editor.settings(about["config"], f"{folder / 'config.json'}: config."))  # type: ignore[no-any-return]


def _download(repo: str) -> Path:
    """The local copy of a trained editor on the Hugging Face Hub."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=["config.json", "editor.safetensors"]))
    except (OSError, ValueError):
        raise BadInput(
            f"no trained editor in {repo}: give a folder, or an id that Hugging Face has"
        ) from None
