"""EditableVLM: a VLM, an editor and the edits made so far, in one object. What most users need."""

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch

from liveedit.data.images import open_image
from liveedit.editors import load_editor
from liveedit.editors.base import Editor, TrainableEditor
from liveedit.editors.former import SHIPPED
from liveedit.errors import BadInput, Mismatch, StorageError
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM
from liveedit.types import Query, checked

__all__ = ["EMBEDDED", "Edit", "EditableVLM", "embedded", "load", "load_vlm"]

EMBEDDED = "emblem"
"""The name of the model that ships with the package."""

VERSION = 1


@dataclass(frozen=True, slots=True)
class Edit:
    """An edit as it is listed: a short id, what was asked, what is to be answered, a hash of the images, and when."""

    id: str
    prompt: str
    target: str
    image: str
    time: str


def embedded(name: str) -> Path:
    """The folder of a checkpoint that ships with the package: "vlm", or the name of an editor trained for it."""
    with as_file(files("liveedit") / "assets" / name) as folder:
        return folder


def load(model: str | Path = EMBEDDED, editor: str | Path = "pinpoint", **options: Any) -> "EditableVLM":
    """A VLM with an editor, ready to be edited.

    ``model`` is "emblem" for the embedded one, a folder, or a Hugging Face id; ``editor`` the name of a method, or the
    folder of a trained one. ``options`` go to :meth:`VLM.load` (dtype, device_map, prompt_format).
    """
    vlm = load_vlm(model, **options)
    folder = embedded(str(editor))
    return EditableVLM(vlm, load_editor(vlm, folder if model == EMBEDDED and folder.is_dir() else editor))


def load_vlm(model: str | Path = EMBEDDED, **options: Any) -> VLM:
    """The VLM of :func:`load` alone.

    The embedded model is stored in half precision and computed in float32, which a CPU does fifty times faster.
    """
    if model == EMBEDDED:
        return VLM.load(embedded("vlm"), **{"dtype": torch.float32} | options)
    return VLM.load(model, **options)


class EditableVLM:
    """A VLM whose answers can be corrected. The model's own weights never change; the edits are a value beside it."""

    def __init__(self, vlm: VLM, editor: Editor) -> None:
        self.vlm, self.editor = vlm, editor
        self.patch: Patch = editor.empty()
        self._edits: list[Edit] = []

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits in force, oldest first."""
        return tuple(self._edits)

    def edit(self, queries: Query | Sequence[Query]) -> list[Edit]:
        """Make the model answer each query's prompt about its image with its target, from now on.

        Raises :class:`BadInput` for an empty prompt or target, for a target that the tokenizer cannot write, and for an
        image that cannot be read; then none of the queries is edited.
        """
        asked = checked(queries)
        for query in asked:
            if not query.prompt.strip() or not query.target.strip():
                raise BadInput("an edit needs a question and a target: give both as text that is not empty")
            self.vlm.check_target(query.target)
        opened = [replace(query, image=[open_image(image) for image in query.images]) for query in asked]
        with self.vlm.unpatched(), torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
            self.patch = self.editor.edit(opened, self.patch)
        made = [_describe(query) for query in opened]
        self._edits += made
        return made

    def generate(self, queries: Query | Sequence[Query], *, max_new_tokens: int = 16) -> list[str]:
        """The edited model's greedy answers."""
        asked = checked(queries)
        with self.vlm.unpatched(), self.vlm.patched(self.patch):
            return self.vlm.generate(asked, max_new_tokens=max_new_tokens)

    def unedited(self, queries: Query | Sequence[Query], *, max_new_tokens: int = 16) -> list[str]:
        """What the model answers without any edit."""
        asked = checked(queries)
        with self.vlm.unpatched():
            return self.vlm.generate(asked, max_new_tokens=max_new_tokens)

    def explain(self, query: Query) -> list[tuple[Edit, float]]:
        """The edits that take part in answering ``query``, with their weights, the largest first."""
        [query] = checked([query])
        with self.vlm.unpatched(), self.vlm.patched(self.patch):
            [reply] = self.vlm.answers([query], max_new_tokens=1)
        fired = sorted(reply.fired, key=lambda pair: -pair[1])
        return [(self._edits[expert], weight) for expert, weight in fired]

    def forget(self, ids: str | Iterable[str]) -> None:
        """Take edits back, by their ids. Raises :class:`BadInput` for an id that is not in force; then none is."""
        gone = {ids} if isinstance(ids, str) else set(ids)
        unknown = gone - {edit.id for edit in self._edits}
        if unknown:
            raise BadInput(f"no edit {', '.join(sorted(unknown))}: `edits` lists those in force")
        keep = [i for i, edit in enumerate(self._edits) if edit.id not in gone]
        self.patch = self.editor.select(self.patch, keep)
        self._edits = [self._edits[i] for i in keep]

    def save(self, folder: str | Path) -> Path:
        """Write the edits to ``folder``, all or nothing: a save that fails leaves what was there.

        Raises :class:`StorageError` if it cannot be written.
        """
        folder = Path(folder)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        except OSError as error:
            raise StorageError(f"cannot write to {folder.parent} ({error.strerror}): choose another folder") from error
        try:
            self.patch.save(part)
            identity = {"version": VERSION, "editor": self.editor.name, "editor_fingerprint": self.editor.fingerprint}
            identity |= {"model_fingerprint": self.vlm.fingerprint, "edits": [asdict(edit) for edit in self._edits]}
            (part / "edits.json").write_text(json.dumps(identity, indent=1, ensure_ascii=False), encoding="utf-8")
            _replace(part, folder)
        except OSError as error:
            raise StorageError(f"cannot save the edits to {folder} ({error.strerror}): free some space") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return folder

    def load(self, folder: str | Path) -> None:
        """Take the edits of ``folder`` in place of the present ones, and its editor if that shipped with us before.

        Raises :class:`BadInput` if there are none or the files are damaged, :class:`Mismatch` if they were made with
        another model or editor, which it names.
        """
        folder = Path(folder)
        stored = _read(folder / "edits.json")
        if stored["version"] != VERSION:
            raise Mismatch(f"{folder} was written by another version of LiveEdit: make the edits again")
        if stored["model_fingerprint"] != self.vlm.fingerprint:
            reason = "another model, or on this one in a dtype with other bits"
            raise Mismatch(f"the edits in {folder} were made on {reason}: load that one, or make them again")
        editor = self._maker(stored["editor_fingerprint"])
        if editor is None:
            raise Mismatch(f"the edits in {folder} were made by another editor ({stored['editor']}): load that editor")
        self.patch, self.editor = editor.load_patch(folder), editor
        self._edits = [Edit(**edit) for edit in stored["edits"]]

    def _maker(self, fingerprint: str) -> Editor | None:
        """The editor that made a pool: this one or, where this is its successor, one that shipped before."""
        if fingerprint == self.editor.fingerprint:
            return self.editor
        if self.editor.name not in ("pinpoint", "liveedit") or fingerprint not in SHIPPED:
            return None
        editor = load_editor(self.vlm, embedded(SHIPPED[fingerprint]))
        assert isinstance(editor, TrainableEditor)
        editor.goes_by(fingerprint)
        return editor


def _describe(query: Query) -> Edit:
    """The listing of a new edit; its id is the hash of what it says and when."""
    pixels = b"".join(open_image(image).tobytes() for image in query.images)
    image = sha256(pixels).hexdigest()[:16] if query.images else ""
    time = datetime.now(UTC).isoformat(timespec="microseconds")
    id = sha256("\x1f".join((query.prompt, query.target, image, time)).encode()).hexdigest()[:8]
    return Edit(id, query.prompt, query.target, image, time)


def _read(file: Path) -> dict[str, Any]:
    try:
        stored: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        stored["version"], stored["editor"], stored["editor_fingerprint"], stored["model_fingerprint"], stored["edits"]
    except FileNotFoundError:
        raise BadInput(f"no edits in {file.parent}: check the path") from None
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{file} is damaged: restore it from a copy, or make the edits again") from None
    return stored


def _replace(part: Path, folder: Path) -> None:
    """Put the new folder in the old one's place; if anything fails the old one is put back."""
    old = folder.with_name(f".{folder.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
