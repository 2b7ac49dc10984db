"""Editing methods by name. Importing this package loads neither torch nor transformers."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from liveedit.artifacts import check_open
from liveedit.errors import BadInput
from liveedit.registry import resolve
from liveedit.types import expanded

if TYPE_CHECKING:
    from liveedit.editors.base import Editor
    from liveedit.models.vlm import VLM

__all__ = [
    "EDITORS",
    "Method",
    "editor_class",
    "load_editor",
    "new_editor",
    "training_command",
]


@dataclass(frozen=True, slots=True)
class Method:
    """An editing method.

    Arguments:
        where: Its class as "module:Class".
        paper: Where it was published.
        trained: Whether it has networks, which are trained once for a model.
    """

    where: str
    paper: str
    trained: bool = False


EDITORS: dict[str, Method] = {
    "direct": Method(
        "liveedit.editors.direct:Direct",
        "this package: an expert fitted to each edit, for models without a trained editor",
    ),
    "ft-l": Method(
        "liveedit.editors.ft:FTL",
        "fine-tuning of the last layer, the baseline of Chen et al., CVPR 2025, and Huang et al., "
        "NeurIPS 2024",
    ),
    "ft-m": Method(
        "liveedit.editors.ft:FTM",
        "fine-tuning of the vision-language connector, the baseline of the same papers",
    ),
    "grace": Method(
        "liveedit.editors.grace:GRACE",
        "Hartvigsen et al., Aging with GRACE: Lifelong Model Editing with Discrete Key-Value "
        "Adaptors, NeurIPS 2023",
    ),
    "horen": Method(
        "liveedit.editors.horen:HoReN",
        "Fang et al., HoReN: Normalized Hopfield Retrieval for Large-Scale Sequential Model "
        "Editing, arXiv 2605.08143",
    ),
    "ike": Method(
        "liveedit.editors.ike:IKE",
        "Zheng et al., Can We Edit Factual Knowledge by In-Context Learning?, EMNLP 2023",
    ),
    "ke": Method(
        "liveedit.editors.ke:KE",
        "De Cao et al., Editing Factual Knowledge in Language Models, EMNLP 2021",
        trained=True,
    ),
    "lemoe": Method(
        "liveedit.editors.lemoe:LEMoE",
        "Wang and Li, LEMoE: Advanced Mixture of Experts Adaptor for Lifelong Model Editing, "
        "EMNLP 2024",
    ),
    "liveedit": Method(
        "liveedit.editors.liveedit:LiveEdit",
        "Chen et al., Lifelong Knowledge Editing for Vision Language Models with Low-Rank MoE, "
        "CVPR 2025",
        trained=True,
    ),
    "locft-bf": Method(
        "liveedit.editors.locft:LocFT",
        "Yang et al., Fine-tuning Done Right in Model Editing, ICLR 2026",
    ),
    "lora": Method(
        "liveedit.editors.lora:LoRA",
        "Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022",
    ),
    "lte": Method(
        "liveedit.editors.lte:LTE",
        "Jiang et al., Learning to Edit: Aligning LLMs with Knowledge Editing, ACL 2024",
        trained=True,
    ),
    "mend": Method(
        "liveedit.editors.mend:MEND",
        "Mitchell et al., Fast Model Editing at Scale, ICLR 2022",
        trained=True,
    ),
    "pinpoint": Method(
        "liveedit.editors.pinpoint:Pinpoint",
        "this package: LiveEdit with experts aligned to the answer and a stricter router",
        trained=True,
    ),
    "recipe": Method(
        "liveedit.editors.recipe:Recipe",
        "Chen et al., Lifelong Knowledge Editing with Retrieval-Augmented Continuous Prompt "
        "Learning, EMNLP 2024",
        trained=True,
    ),
    "scr": Method(
        "liveedit.editors.scr:SCR",
        "He et al., Knowledge Updating? No More Model Editing! Just Selective Contextual "
        "Reasoning, arXiv 2503.05212; a baseline of Ren et al., ICML 2026",
    ),
    "serac": Method(
        "liveedit.editors.serac:Serac",
        "Mitchell et al., Memory-Based Model Editing at Scale, ICML 2022",
        trained=True,
    ),
    "t-patcher": Method(
        "liveedit.editors.tpatcher:TPatcher",
        "Huang et al., Transformer-Patcher: One Mistake Worth One Neuron, ICLR 2023",
    ),
    "ultraedit": Method(
        "liveedit.editors.ultraedit:UltraEdit",
        "Gu et al., UltraEdit: Training-, Subject-, and Memory-Free Lifelong Editing in Language "
        "Models, TMLR 2026",
    ),
    "wise": Method(
        "liveedit.editors.wise:WISE",
        "Wang et al., WISE: Rethinking the Knowledge Memory for Lifelong Model Editing, "
        "NeurIPS 2024",
    ),
}


QUANTISED = {"llm_int8": "8bit", "nf4": "4bit"}
"""Options of the command line by the methods of quantisation; others are the checkpoint's own."""


def editor_class(name: str) -> "type[Editor]":
    """The class of the method ``name``. Raises :class:`UnknownName` for one not registered."""
    return resolve("editor", name, EDITORS)  # type: ignore[no-any-return]


def new_editor(
    vlm: "VLM", name: str, settings: Mapping[str, Any] | None = None, seed: int = 0
) -> "Editor":
    """A new editor of the method ``name`` for ``vlm``; if it has networks, they are untrained.

    ``settings`` replace the defaults. ``seed`` determines the networks' initial weights; the
    caller's random state is left as it was. Raises :class:`UnknownName` for a method that is not
    registered, :class:`BadInput` for an unknown setting and for a seed beyond 32 bits.
    """
    import torch

    from liveedit.settings import check_seed

    method = editor_class(name)
    check_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):  # else untrainable tensors
        torch.default_generator.manual_seed(seed)
        return method(vlm, method.settings(settings or {}))


def load_editor(vlm: "VLM", source: str | Path) -> "Editor":
    """The editor for ``vlm`` in a folder, or under a Hugging Face id.

    ``source`` may also be the name of a method that needs no training. The folder of such a method
    holds only a ``config.json`` with its name and settings. Raises :class:`UnknownName` for a name
    that is not registered, :class:`BadInput` for a folder or id without an editor and for the name
    of a method that has to be trained, :class:`Mismatch` for an editor trained for another model.
    """
    import torch

    with torch.inference_mode(False):
        folder = expanded(source)
        check_open(folder)
        if folder.is_dir():
            return _open(vlm, folder)
        if "/" in str(source):
            return _open(vlm, _download(str(source)))
        return _untrained(vlm, str(source))


def training_command(vlm: "VLM", name: str = "", folder: str = "", model: str = "") -> str:
    """The command that trains an editor for a model as it is loaded.

    Arguments:
        vlm: The model.
        name: The method; by default ``pinpoint``, or ``liveedit`` for a model that it cannot edit.
        folder: Folder for the editor; by default one named after the method.
        model: Name or folder of the model; by default where it was loaded from.
    """
    method = name or ("pinpoint" if vlm.state_size == vlm.hidden_size else "liveedit")
    words = ["liveedit", "train", folder or f"editors/{method}", "--editor", method]
    words += ["--model", model or str(vlm.model.name_or_path or "MODEL")]
    if vlm.quantised in QUANTISED:
        words += ["--quantize", QUANTISED[vlm.quantised]]
    elif not vlm.quantised:
        words += ["--dtype", str(vlm.dtype).removeprefix("torch.")]
    return shlex.join([*words, "--prompt-format", vlm.prompt_format])


def _untrained(vlm: "VLM", name: str) -> "Editor":
    """An editor of a method that needs no training, with its default settings."""
    from liveedit.editors.base import TrainableEditor

    method = editor_class(name)
    if issubclass(method, TrainableEditor):
        raise BadInput(
            f"{name} has to be trained for this model first: run `{training_command(vlm, name)}`, "
            "or use direct, which needs no training"
        )
    return method(vlm)


def _open(vlm: "VLM", folder: Path) -> "Editor":
    """Load the editor in a folder."""
    from liveedit.editors.base import TrainableEditor
    from liveedit.editors.editor_files import read_info

    info = read_info(folder)
    method = editor_class(info["editor"])
    if issubclass(method, TrainableEditor):
        return method.from_pretrained(vlm, folder)
    return method(vlm, method.settings(info["config"], f"{folder / 'config.json'}: config."))


def _download(repo: str) -> Path:
    """The local copy of a trained editor on the Hugging Face Hub."""
    from liveedit.hub.repository import download

    return download(repo, "trained editor", ["config.json", "editor.safetensors"])
