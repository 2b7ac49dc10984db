"""Which editors an evaluation tests: what `--editors` says, loaded.

Each is the name of a method, the folder or Hugging Face id of a trained editor, `NAME:FOLDER`, or
one of these behind `LABEL=`; `all` stands for every method. A method is looked for by its name
among the folders of trained editors, then among those that ship with the package; one without
training that is in neither has its default settings.
"""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from liveedit.errors import BadInput, Mismatch, UnknownName, shortage

if TYPE_CHECKING:
    from liveedit.editors.base import Editor
    from liveedit.models.vlm import VLM

__all__ = ["Entrant", "Ready", "entrants", "load_entrants"]

ALL = "all"
TAKEN = re.compile(r"(\..*|tables|.*\.(csv|html|jsonl?|md|png|svg))?", re.IGNORECASE)
"""Names that a folder of --out must not have: hidden ones, those of a report's files and those of
records.
"""


@dataclass(frozen=True)
class Entrant:
    """An editor under the ``label`` that the records call it by; ``method``, where it is given, is
    what it must be.
    """

    source: str
    label: str = ""
    method: str = ""


def entrants(text: str) -> list[Entrant]:
    """What a list separated by commas names; `all` as one entry.

    Raises :class:`BadInput` for an empty or odd one, and for a label that would name other files in
    --out.
    """
    found = []
    for part in text.split(","):
        label, given, source = part.strip().rpartition("=")
        method, named, folder = source.partition(":")
        found.append(Entrant(folder, label or method, method) if named else Entrant(source, label))
        if (
            not found[-1].source
            or (given and not label)
            or not re.fullmatch(r"[\w.+-]*", found[-1].label)
        ):
            raise BadInput(
                f"--editors takes NAME, FOLDER, NAME:FOLDER or LABEL=one of these: got '{part.strip()}'"
            )
        if found[-1].label and TAKEN.fullmatch(found[-1].label):
            raise BadInput(
                f"no editor can be called '{found[-1].label}', a name of other files in --out: choose another label"
            )
    return found


@dataclass(frozen=True)
class Ready:
    """What can be tested, and what not.

    ``editors`` has those that can, by label, ``left_out`` a line for each of `all` that is yet to
    be trained, ``failed`` what went wrong with the others, by the label that they would have had.
    """

    editors: "dict[str, Editor]" = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    failed: dict[str, Exception] = field(default_factory=dict)


class Untrained(BadInput):
    """A method that has to be trained for the model first."""


def load_entrants(vlm: "VLM", model: str, asked: list[Entrant], trained: Path) -> Ready:
    """The editors, as far as they can be loaded. ``trained`` is the folder of trained ones, by the
    names of methods.

    Raises :class:`UnknownName` for a name that there is not, :class:`BadInput` where two have one
    label, and what kept an editor from loading where there is none at all, or no folder of --out to
    say so in.
    """
    from liveedit.artifacts import resolved_path
    from liveedit.editors import EDITORS

    ready = Ready()
    for entrant in asked:
        for name in sorted(EDITORS) if entrant.source == ALL else [entrant.source]:
            label = entrant.label or (name if name in EDITORS else resolved_path(name).name)
            try:
                editor = _load(vlm, model, name, trained)
                editor.empty()  # reads whatever else the method needs, such as a sentence encoder
                _agree(entrant, editor)
            except UnknownName:
                raise
            except Exception as error:  # the others are tested all the same
                if isinstance(error, Untrained) and entrant.source == ALL:
                    ready.left_out.append(f"{name} is left out: {error}")
                elif TAKEN.fullmatch(label):
                    raise
                else:
                    ready.failed[label] = error
                continue
            label = entrant.label or editor.name
            if label in ready.editors:
                raise BadInput(
                    f"two editors are called '{label}': give one of them another label, as in LABEL=FOLDER"
                )
            ready.editors[label] = editor
    if not ready.editors:
        if len(ready.failed) == 1 and not ready.left_out:
            raise next(iter(ready.failed.values()))
        failed = [f"{label}: {shortage(error) or error}" for label, error in ready.failed.items()]
        raise BadInput(f"no editor is ready: {'; '.join(ready.left_out + failed)}")
    return ready


def _agree(entrant: Entrant, editor: "Editor") -> None:
    """Raise :class:`Mismatch` unless the editor is of the method that was asked for."""
    if entrant.method not in ("", editor.name):
        raise Mismatch(
            f"{entrant.source} holds an editor of the method '{editor.name}', not '{entrant.method}'"
        )


def _load(vlm: "VLM", model: str, source: str, trained: Path) -> "Editor":
    """The editor of a name, folder or id. Raises :class:`Untrained` where it is yet to be trained,
    with the command.
    """
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
    command = shlex.join(
        ["liveedit", "train", str(trained / source), "--editor", source, "--model", model]
    )
    raise Untrained(f"{source} has to be trained for this model first: {command}")
