"""Which editors an evaluation tests: what `--editors` says, loaded.

Each is the name of a method, the folder or Hugging Face id of a trained editor, `NAME:FOLDER`, or one of these behind
`LABEL=`; `all` stands for every method. A method is looked for by its name among the folders of trained editors, then
among those that ship with the package; one without training that is in neither has its default settings.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from liveedit.errors import BadInput, LiveEditError, Mismatch

if TYPE_CHECKING:
    from liveedit.editors.base import Editor
    from liveedit.models.vlm import VLM

__all__ = ["Entrant", "entrants", "load_entrants"]

ALL = "all"


@dataclass(frozen=True)
class Entrant:
    """An editor under the ``label`` that the records call it by; ``method``, where it is given, is what it must be."""

    source: str
    label: str = ""
    method: str = ""


def entrants(text: str) -> list[Entrant]:
    """What a list separated by commas names; `all` as one entry. Raises :class:`BadInput` for an empty or odd one."""
    found = []
    for part in text.split(","):
        label, given, source = part.strip().rpartition("=")
        method, named, folder = source.partition(":")
        found.append(Entrant(folder, label or method, method) if named else Entrant(source, label))
        if not found[-1].source or (given and not label) or not re.fullmatch(r"[\w.+-]*", found[-1].label):
            raise BadInput(f"--editors takes NAME, FOLDER, NAME:FOLDER or LABEL=one of these: got '{part.strip()}'")
    return found


def load_entrants(vlm: "VLM", model: str, asked: list[Entrant], trained: Path) -> "tuple[dict[str, Editor], list[str]]":
    """The editors by label, and a line for each method of `all` that cannot be tested yet.

    ``trained`` is the folder of trained editors, one by the name of its method. Raises :class:`BadInput` where two have
    one label or none of `all` is ready, and whatever loading an editor that was named itself raises.
    """
    from liveedit.editors import EDITORS

    chosen: dict[str, Editor] = {}
    skipped: list[str] = []
    for entrant in asked:
        for name in sorted(EDITORS) if entrant.source == ALL else [entrant.source]:
            try:
                editor = _load(vlm, model, name, trained)
                editor.empty()  # reads whatever else the method needs, such as a sentence encoder
            except LiveEditError as error:
                if entrant.source != ALL:
                    raise
                skipped.append(f"{name} is left out: {error}")
                continue
            if entrant.method not in ("", editor.name):
                raise Mismatch(
                    f"{entrant.source} holds an editor of the method '{editor.name}', not '{entrant.method}'"
                )
            label = entrant.label or editor.name
            if label in chosen:
                raise BadInput(f"two editors are called '{label}': give one of them another label, as in LABEL=FOLDER")
            chosen[label] = editor
    if not chosen:
        raise BadInput(f"no editor is ready: {'; '.join(skipped)}")
    return chosen, skipped


def _load(vlm: "VLM", model: str, source: str, trained: Path) -> "Editor":
    """The editor of a name, folder or id. Raises :class:`BadInput` where it is yet to be trained, with the command."""
    from liveedit.editable import EMBEDDED, embedded
    from liveedit.editors import EDITORS, load_editor
    from liveedit.registry import resolve

    if source not in EDITORS:
        return load_editor(vlm, source)
    for folder in (trained / source, *([embedded(source)] if model == EMBEDDED else [])):
        if (folder / "config.json").is_file():
            return load_editor(vlm, folder)
    if not hasattr(resolve("editor", source, EDITORS), "from_pretrained"):
        return load_editor(vlm, source)
    command = shlex.join(["liveedit", "train", str(trained / source), "--editor", source, "--model", model])
    raise BadInput(f"{source} has to be trained for this model first: {command}")
