"""Which editors an evaluation compares: the value of `--editors`, parsed and loaded.

Each is the name of a method, the folder or Hugging Face id of a trained editor, `NAME:FOLDER`, or
one of these after `LABEL=`; `all` means every method. A method's name is looked up among the
trained editors, then among those that ship with the package. If neither has it and the method needs
no training, its default settings are used.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from liveedit.errors import BadInput, Mismatch, UnknownName, shortage

if TYPE_CHECKING:
    from liveedit.editors.base import Editor
    from liveedit.models.vlm import VLM

__all__ = ["EditorSpec", "LoadedEditors", "load_editors", "parse_specs"]

ALL = "all"
RESERVED = re.compile(r"(\..*|tables|.*\.(csv|html|jsonl?|md|png|svg))?", re.IGNORECASE)
"""Labels that collide with names of files in --out: hidden files, reports and records."""


@dataclass(frozen=True)
class EditorSpec:
    """One entry of `--editors`.

    Arguments:
        source: Name of a method, folder or Hugging Face id.
        label: Name of the editor in the records; empty: that of the method.
        method: Method that the folder must hold; empty: any.
    """

    source: str
    label: str = ""
    method: str = ""


def parse_specs(text: str) -> list[EditorSpec]:
    """The entries of a list separated by commas; `all` is one entry.

    Raises :class:`BadInput` for an empty or malformed entry and for a reserved label.
    """
    return [_parse(part.strip()) for part in text.split(",")]


def _parse(text: str) -> EditorSpec:
    """One entry. Raises :class:`BadInput` as :func:`parse_specs`."""
    label, given, source = text.rpartition("=")
    method, named, folder = source.partition(":")
    spec = EditorSpec(source, label)
    if named:
        spec = EditorSpec(folder, label or method, method)
    if not spec.source or (given and not label) or not re.fullmatch(r"[\w.+-]*", spec.label):
        raise BadInput(
            f"--editors takes NAME, FOLDER, NAME:FOLDER or LABEL=one of these: got '{text}'"
        )
    if spec.label and RESERVED.fullmatch(spec.label):
        raise BadInput(
            f"no editor can be called '{spec.label}', a name of other files in --out: "
            "choose another label"
        )
    return spec


@dataclass(frozen=True)
class LoadedEditors:
    """The editors that can be evaluated, and why the others cannot.

    Arguments:
        editors: The loaded editors by label.
        left_out: A line for each method of `all` that has to be trained first.
        failed: Errors of the others, by the label that they would have had.
    """

    editors: "dict[str, Editor]" = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    failed: dict[str, Exception] = field(default_factory=dict)


class Untrained(BadInput):
    """A method that has to be trained for the model first."""


def load_editors(vlm: "VLM", model: str, specs: list[EditorSpec], trained: Path) -> LoadedEditors:
    """Load the editors as far as possible. ``trained`` holds trained editors by method.

    Raises :class:`UnknownName` for a name that does not exist, :class:`BadInput` where two editors
    have one label, and an editor's own error if no other editor can be loaded or if its label is
    reserved.
    """
    from liveedit.editors import EDITORS

    loaded = LoadedEditors()
    for spec in specs:
        for source in sorted(EDITORS) if spec.source == ALL else [spec.source]:
            _add(loaded, vlm, model, spec, source, trained)
    if loaded.editors:
        return loaded
    if len(loaded.failed) == 1 and not loaded.left_out:
        raise next(iter(loaded.failed.values()))
    failed = [f"{label}: {shortage(error) or error}" for label, error in loaded.failed.items()]
    raise BadInput(f"no editor is ready: {'; '.join(loaded.left_out + failed)}")


def _add(
    loaded: LoadedEditors, vlm: "VLM", model: str, spec: EditorSpec, source: str, trained: Path
) -> None:
    """Load one editor, or note why it cannot be loaded, so that the others still run."""
    try:
        editor = _load(vlm, model, source, trained)
        editor.empty()  # reads whatever else the method needs, such as a sentence encoder
        _check_method(spec, editor)
    except UnknownName:
        raise
    except Exception as error:
        label = spec.label or _default_label(source)
        if isinstance(error, Untrained) and spec.source == ALL:
            loaded.left_out.append(f"{source} is left out: {error}")
        elif RESERVED.fullmatch(label):
            raise
        else:
            loaded.failed[label] = error
        return
    label = spec.label or editor.name
    if label in loaded.editors:
        raise BadInput(
            f"two editors are called '{label}': give one of them another label, as in LABEL=FOLDER"
        )
    loaded.editors[label] = editor


def _default_label(source: str) -> str:
    """The label of an editor that cannot be loaded: its method, or the name of its folder."""
    from liveedit.artifacts import resolved_path
    from liveedit.editors import EDITORS

    return source if source in EDITORS else resolved_path(source).name


def _check_method(spec: EditorSpec, editor: "Editor") -> None:
    """Raise :class:`Mismatch` unless the editor is of the method that the entry names."""
    if spec.method not in ("", editor.name):
        raise Mismatch(
            f"{spec.source} holds an editor of the method '{editor.name}', not '{spec.method}'"
        )


def _load(vlm: "VLM", model: str, source: str, trained: Path) -> "Editor":
    """Load the editor that a name, folder or id refers to.

    Raises :class:`Untrained`, with the command that trains it, for a method without one.
    """
    from liveedit.editable import EMBEDDED, embedded
    from liveedit.editors import EDITORS, editor_class, load_editor, training_command
    from liveedit.editors.base import TrainableEditor

    if source not in EDITORS:
        return load_editor(vlm, source)
    folders = [trained / source]
    if model == EMBEDDED:
        folders.append(embedded(source))
    for folder in folders:
        if (folder / "config.json").is_file():
            return load_editor(vlm, folder)
    if not issubclass(editor_class(source), TrainableEditor):
        return load_editor(vlm, source)
    command = training_command(vlm, source, str(trained / source), model)
    raise Untrained(f"{source} has to be trained for this model first: {command}")
