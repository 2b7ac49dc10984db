"""Descriptions in ``run.json``: the origin of records, and the circumstances of a call."""

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

import liveedit
from liveedit.editors.base import Editor
from liveedit.models.vlm import VLM
from liveedit.runinfo import digest
from liveedit.types import Case

__all__ = ["circumstances_of", "origin_of"]

ASSETS = Path(liveedit.__file__).parent / "assets"
"""Folder of the embedded model."""


def origin_of(vlm: VLM, editor: Editor, cases: Sequence[Case]) -> dict[str, Any]:
    """Values that all records of one folder must share: those of model, editor and cases."""
    return {
        "model": vlm.fingerprint,
        "quantised": vlm.quantised,
        "prompt_format": vlm.prompt_format,
        "method": editor.name,
        "config": asdict(editor.config),
        "editor_fingerprint": editor.fingerprint,
        "cases": digest(cases),
    }


def circumstances_of(vlm: VLM) -> dict[str, Any]:
    """Command, versions and hardware of this process."""
    modules = {"liveedit": liveedit, "torch": torch, "transformers": transformers}
    versions = {name: str(module.__version__) for name, module in modules.items()}
    return {
        "command": shlex.join(sys.argv),
        "model": _model_title(vlm),
        "versions": {"python": platform.python_version(), **versions},
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(vlm.device),
        "dtype": str(vlm.dtype),
    }


def _model_title(vlm: VLM) -> str:
    """Name of the model for readers: its id or folder."""
    name = str(getattr(vlm.model.config, "name_or_path", ""))
    return "the embedded model" if name and Path(name).is_relative_to(ASSETS) else name
