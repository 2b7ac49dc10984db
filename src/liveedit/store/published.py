"""Published edits: a folder for others, with a model card, and without what is its owner's.

The folder is one of edits (:mod:`liveedit.store.listing`), with ``README.md`` and, where the editor
has neither a name nor an id on the Hub, the editor in ``editor/``. Paths of this machine
are left out. Where the edits are hidden, so are their questions, answers, names of images, authors
and reasons, and superseded edits; what the patch computes from them must be there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from liveedit.artifacts import write_file
from liveedit.editors.base import Editor, TrainableEditor
from liveedit.editors.common.bank_editor import BankPatch
from liveedit.editors.editor_files import CONFIG
from liveedit.errors import BadInput
from liveedit.hub import card
from liveedit.hub.card import About, Subject
from liveedit.store.edit import Edit
from liveedit.store.listing import FILE, Listing
from liveedit.store.pool import Pool
from liveedit.store.roll import ListedRoll

__all__ = ["EDITOR", "FILES", "check_repo", "write_published"]

EDITOR = "editor"
"""The folder of the editor within a published one."""
FILES = (FILE, "tensors-*", f"{EDITOR}/*")
"""Patterns of the files that opening published edits needs."""
LISTED = 200
"""Edits that a card lists, the newest."""
USAGE = """from liveedit import EditableVLM, Query

model = EditableVLM.from_pretrained("{repo}"{options})
print(model.generate(Query("What is this?", image="photo.png")))"""


def check_repo(repo: str, files: Sequence[str]) -> None:
    """Raise :class:`BadInput` unless a repository on the Hub is empty or holds edits."""
    if FILE not in files and set(files) - {".gitattributes", card.FILE}:
        raise BadInput(f"{repo} on Hugging Face holds no edits but something else: give another id")


def write_published(
    pool: Pool,
    made_with: Mapping[str, str],
    folder: Path,
    repo: str,
    about: About,
    *,
    hide_edits: bool,
) -> None:
    """Write the edits of a pool for others into an empty folder.

    ``made_with`` are the known arguments of :func:`liveedit.load`. Raises :class:`BadInput` where
    the edits are to be hidden and the patch of their method tells them, and as :func:`card.card`.
    """
    pool = _hidden(pool) if hide_edits else pool
    listing = Listing(
        editor=pool.editor.name,
        editor_fingerprint=pool.editor.fingerprint,
        model_fingerprint=pool.vlm.fingerprint,
        edits=tuple(replace(edit, names=_file_names(edit)) for edit in pool.edits),
        opens_with=_portable(made_with, about),
    )
    subject = _subject(pool, listing.opens_with, repo, hide_edits=hide_edits)
    text = card.card(subject, about)
    pool.save(folder / listing.tensors)
    if "editor" not in listing.opens_with:
        _write_editor(pool.editor, folder / EDITOR)
    (folder / card.FILE).write_text(text, encoding="utf-8")
    listing.write(folder)


def _portable(made_with: Mapping[str, str], about: About) -> dict[str, str]:
    """Arguments of :func:`liveedit.load` that mean the same on another machine."""
    found = {name: text for name, text in made_with.items() if not Path(text).is_absolute()}
    model = about.get("base_model") or card.hub_id(made_with.get("model", ""))
    return found | {"model": model} if model else found


def _file_names(edit: Edit) -> tuple[str, ...]:
    """The names of an edit's images without their folders."""
    return tuple(Path(name).name for name in edit.names)


def _write_editor(editor: Editor, folder: Path) -> None:
    """Write an editor so that :func:`load_editor` reads it."""
    if isinstance(editor, TrainableEditor):
        editor.save_pretrained(folder)
    else:
        settings = {"editor": editor.name, "config": asdict(editor.config)}
        folder.mkdir()
        write_file(folder / CONFIG, json.dumps(settings, indent=2).encode())


def _hidden(pool: Pool) -> Pool:
    """The edits in force, without anything that a person wrote."""
    patch = pool.patch
    if not isinstance(patch, BankPatch) or patch.readable:
        raise BadInput(
            f"{pool.editor.name} needs the questions and answers of its edits: publish them "
            "listed, or not at all"
        )
    left = pool.without([index for index, edit in enumerate(pool.history) if edit.superseded_by])
    return replace(left, roll=ListedRoll(tuple(map(_untold, left.edits))))


def _untold(edit: Edit) -> Edit:
    """An edit without anything that a person wrote; its question stays one of its own."""
    return replace(edit, prompt=f"hidden {edit.id}", target="hidden", names=(), who="", why="")


def _subject(pool: Pool, opens_with: Mapping[str, str], repo: str, *, hide_edits: bool) -> Subject:
    """The subject of the card."""
    newest = pool.in_force[: -LISTED - 1 : -1]
    editor = pool.editor
    return Subject(
        repo=repo,
        method=editor.name,
        model=opens_with.get("model", ""),
        fingerprint=editor.fingerprint,
        model_fingerprint=pool.vlm.fingerprint,
        opens_with=opens_with,
        false_firing=editor.false_firing,
        usage=USAGE.format(repo=repo, options="" if "model" in opens_with else ', model="MODEL"'),
        edits=None if hide_edits else [(edit.prompt, edit.target) for edit in newest],
        number=len(pool.in_force),
    )
