"""Which training a folder belongs to: ``training.json`` lists what a resumed run must share."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from liveedit.artifacts import check_folder, write_file
from liveedit.editors.base import TrainableEditor
from liveedit.errors import BadInput, Mismatch
from liveedit.runinfo import digest
from liveedit.train.config import TrainConfig
from liveedit.types import Case

__all__ = ["IDENTITY", "check_owner", "identity", "take_folder"]

IDENTITY = "training.json"
FREE = ("checkpoint_every", "cache")
"""Settings that a resumed run may change."""


def identity(editor: TrainableEditor, cases: Sequence[Case], config: TrainConfig) -> dict[str, Any]:
    """Everything that a run and its continuation must share.

    The number of steps may grow if the schedule does not depend on it.
    """
    settings = asdict(config) | {
        "editor": editor.name,
        "config": asdict(editor.config),
        "model": editor.vlm.fingerprint,
        "quantised": editor.vlm.quantised,
        "prompt_format": editor.vlm.prompt_format,
    }
    free = {*FREE, "steps"} if config.schedule == "step" else {*FREE}
    kept = {name: value for name, value in settings.items() if name not in free}
    return kept | {"cases": digest(cases)}


def check_owner(folder: Path, identity: dict[str, Any]) -> None:
    """Raise :class:`Mismatch` where ``folder`` holds a training with another identity.

    Raises :class:`BadInput` for a folder with unrelated files, or a damaged ``training.json``.
    """
    check_folder(folder, IDENTITY)
    file = folder / IDENTITY
    if not file.exists():
        return
    try:
        stored = dict(json.loads(file.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, TypeError, RecursionError):
        raise BadInput(f"{file} is damaged: choose a new folder") from None
    now = json.loads(json.dumps(identity))
    if different := sorted(key for key in {*stored, *now} if stored.get(key) != now.get(key)):
        names = ", ".join(different)
        raise Mismatch(f"{folder} holds a training with another {names}: choose a new folder")


def take_folder(folder: Path, identity: dict[str, Any]) -> None:
    """Write the identity into a new folder; check it as :func:`check_owner` in any other."""
    file = folder / IDENTITY
    if not file.exists():
        write_file(file, json.dumps(identity, indent=1).encode())
    check_owner(folder, identity)
