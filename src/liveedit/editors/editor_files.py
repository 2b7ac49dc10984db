"""The folder of an editor: ``config.json`` and, where it was trained, ``editor.safetensors``.

``config.json`` holds the method's name (``editor``), its settings (``config``) and the fingerprint
of the base model (``model``). The file of weights carries a copy of it. Both name the state that
they belong to (``written``), so that a kill between the two writes does no harm: the copy takes
precedence.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from liveedit.artifacts import read_tensors, write_file, write_tensors
from liveedit.editors.former_names import renamed
from liveedit.errors import BadInput
from liveedit.settings import read_json

__all__ = ["CONFIG", "WEIGHTS", "check_repo", "read_editor", "read_info", "write_editor"]

CONFIG = "config.json"
WEIGHTS = "editor.safetensors"

State = dict[str, Tensor]
"""The weights of an editor's networks, by name."""


def write_editor(folder: Path, info: Mapping[str, Any], state: State, state_id: str) -> None:
    """Write an editor, or replace one of the same method whole.

    ``info`` is the content of ``config.json``; ``state_id`` identifies weights and settings. Raises
    :class:`BadInput` for a folder with an editor of another method or unrelated files of these
    names, :class:`StorageError` where writing fails.
    """
    replaces = _holds_editor(folder, info["editor"])
    content = {**info, "written": sha256(state_id.encode()).hexdigest()[:16]}
    write_tensors(folder / WEIGHTS, state, {"about": json.dumps(content)}, allow_unmarked=replaces)
    write_file(folder / CONFIG, (json.dumps(content, indent=2) + "\n").encode())


def read_editor(folder: Path) -> tuple[dict[str, Any], State]:
    """The content of ``config.json`` and the weights that :func:`write_editor` wrote.

    Raises :class:`BadInput` for a folder without an editor, or with a damaged one.
    """
    info = read_info(folder)
    try:
        state, metadata = read_tensors(folder / WEIGHTS)
        copy = json.loads(metadata.get("about", "{}"))
        if copy and copy["written"] != info.get("written"):  # killed before config.json was written
            info = renamed(copy)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(
            f"no editor can be read from {folder} ({error}): give a trained one's folder"
        ) from error
    return info, state


def read_info(folder: Path) -> dict[str, Any]:
    """The content of an editor's ``config.json``, with current names of methods and settings.

    Raises :class:`BadInput` for a folder without an editor.
    """
    info: Any = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    match info:
        case {"editor": str(), "config": dict()}:
            return renamed(info)
    raise BadInput(f"{folder} holds no editor: give the folder of a trained one")


def check_repo(repo: str, files: Sequence[str]) -> None:
    """Raise :class:`BadInput` unless a repository on the Hub is empty or holds an editor."""
    if CONFIG in files and WEIGHTS not in files:
        raise BadInput(
            f"{repo} on Hugging Face holds no editor but something else: give another id"
        )


def _holds_editor(folder: Path, method: str) -> bool:
    """Whether ``folder`` holds an editor of ``method``, which may be replaced.

    Raises :class:`BadInput` for an editor of another method, and for an unrelated ``config.json``.
    """
    try:
        info = renamed(json.loads((folder / CONFIG).read_text(encoding="utf-8-sig")))
        found = [info[key] for key in ("editor", "model", "config")]
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadInput(f"{folder / CONFIG} is no editor's: choose another folder") from None
    if found[0] != method:
        raise BadInput(
            f"{folder} holds an editor of the method '{found[0]}': choose another folder"
        )
    return True
