"""EditableVLM: a VLM, an editor and the edits made so far, in one object. What most users need."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch

from liveedit.artifacts import locked, place, sync, writing
from liveedit.data.images import open_image
from liveedit.editors import load_editor
from liveedit.editors.base import Editor, TrainableEditor
from liveedit.editors.former import SHIPPED
from liveedit.errors import BadInput, Mismatch
from liveedit.listing import FILE, Edit, Listing, tidy
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM
from liveedit.runinfo import name as image_name
from liveedit.types import Query, checked

__all__ = ["EMBEDDED", "Edit", "EditableVLM", "embedded", "load", "load_vlm"]

EMBEDDED = "emblem"
"""The name of the model that ships with the package."""


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
    ships = model == EMBEDDED and embedded(str(editor)).is_dir()
    loaded = EditableVLM(vlm, load_editor(vlm, embedded(str(editor)) if ships else editor))
    loaded.opens_with = {
        "model": EMBEDDED if model == EMBEDDED else _anywhere(model),
        "editor": str(editor) if ships else _anywhere(editor),
    }
    if options.get("dtype") is not None:
        loaded.opens_with["dtype"] = str(options["dtype"]).removeprefix("torch.")
    return loaded


def _anywhere(source: str | Path) -> str:
    """A name or id as it is, a folder by its path from the root, so that it is found from any other folder."""
    return str(Path(source).absolute() if Path(source).is_dir() else source)


def load_vlm(model: str | Path = EMBEDDED, **options: Any) -> VLM:
    """The VLM of :func:`load` alone.

    The embedded model is stored in half precision and computed in float32, which a CPU does fifty times faster.
    """
    if model == EMBEDDED:
        return VLM.load(embedded("vlm"), **{"dtype": torch.float32} | options)
    return VLM.load(model, **options)


class EditableVLM:
    """A VLM whose answers can be corrected. The model's own weights never change; the edits are a value beside it.

    ``opens_with`` says what :func:`load` was given, as far as the edits depend on it; a folder of edits remembers it.
    """

    def __init__(self, vlm: VLM, editor: Editor) -> None:
        self.vlm, self.editor = vlm, editor
        self.patch: Patch = editor.empty()
        self.opens_with: dict[str, str] = {}
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
        made = [_describe(query, given) for query, given in zip(opened, asked, strict=True)]
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

    def forget(self, ids: str | Iterable[str]) -> list[Edit]:
        """Take edits back, by their ids or the beginnings of these; those taken back, in their order.

        Raises :class:`BadInput` for an id that is not in force or a beginning that several share; then none is.
        """
        gone = {self._place(id) for id in ([ids] if isinstance(ids, str) else ids)}
        keep = [i for i in range(len(self._edits)) if i not in gone]
        self.patch = self.editor.select(self.patch, keep)
        taken = [self._edits[i] for i in sorted(gone)]
        self._edits = [self._edits[i] for i in keep]
        return taken

    def _place(self, id: str) -> int:
        """Which edit an id, or its beginning, means."""
        found = [i for i, edit in enumerate(self._edits) if id and edit.id.startswith(id)]
        if not found:
            raise BadInput(f"no edit {id!r}: `edits` lists those in force")
        if len(found) > 1:
            alike = ", ".join(self._edits[i].id for i in found)
            raise BadInput(f"{id!r} may be any of {alike}: give more of the id")
        return found[0]

    def save(self, folder: str | Path) -> Path:
        """Write the edits to ``folder``, all or nothing: a save that fails or is killed leaves what was there.

        ``folder`` is a new or an empty one, or one that holds edits, which are replaced; other files in it stay as they
        are. Raises :class:`BadInput` for a folder of somebody else's and for a file, :class:`StorageError` if it cannot
        be written.
        """
        Listing.find(folder)
        target = place(folder)
        with locked(target):
            before = Listing.find(target)
            listing = Listing(
                editor=self.editor.name,
                editor_fingerprint=self.editor.fingerprint,
                model_fingerprint=self.vlm.fingerprint,
                edits=self.edits,
                opens_with=self.opens_with | {"prompt_format": self.vlm.prompt_format},
            )
            try:
                self.patch.save(target / listing.tensors)
                with writing(folder):
                    sync(target)
                listing.write(target)
            finally:
                tidy(target, before)
        return target

    def load(self, folder: str | Path) -> None:
        """Take the edits of ``folder`` in place of the present ones, and its editor if that shipped with us before.

        Raises :class:`BadInput` if there are none or the files are damaged, :class:`Mismatch` if they were made with
        another model, editor or prompt format, which it names.
        """
        listing = Listing.read(folder)
        editor = self._maker(listing, folder)
        while True:
            try:
                patch = editor.load_patch(place(folder) / listing.tensors)
                break
            except BadInput:  # unless another process has just replaced the edits and removed these
                known, listing = listing, Listing.read(folder)
                if listing == known:
                    raise
        if len(patch) != len(listing.edits):
            raise BadInput(
                f"{place(folder) / FILE} is damaged, it lists {len(listing.edits)} edits of {len(patch)}: "
                "restore it from a copy, or make the edits again elsewhere"
            )
        self.editor, self.patch, self._edits = editor, patch, list(listing.edits)
        self.opens_with = {**listing.opens_with, **self.opens_with}

    def _maker(self, listing: Listing, folder: str | Path) -> Editor:
        """The editor that made a pool: this one or, where this is its successor, one that shipped before.

        Raises :class:`Mismatch` for edits that were made with another model, editor or prompt format.
        """
        made, fingerprint = listing.opens_with, listing.editor_fingerprint
        if listing.model_fingerprint != self.vlm.fingerprint:
            which = " ".join(made[name] for name in ("model", "dtype") if name in made) or "one that it does not name"
            raise Mismatch(f"the edits in {folder} were made on another model ({which}): load that one")
        if (form := made.get("prompt_format", self.vlm.prompt_format)) != self.vlm.prompt_format:
            raise Mismatch(
                f"the edits in {folder} were made with another prompt format ({form}): load the model with it"
            )
        if fingerprint == self.editor.fingerprint:
            return self.editor
        if self.editor.name not in ("pinpoint", "liveedit") or fingerprint not in SHIPPED:
            which = made.get("editor", listing.editor)
            raise Mismatch(f"the edits in {folder} were made by another editor ({which}): load that one")
        editor = load_editor(self.vlm, embedded(SHIPPED[fingerprint]))
        assert isinstance(editor, TrainableEditor)
        editor.goes_by(fingerprint)
        return editor


def _describe(query: Query, given: Query) -> Edit:
    """The listing of a new edit; its id is the hash of what it says and when. ``given`` has the images' names."""
    pixels = b"".join(open_image(image).tobytes() for image in query.images)
    image = sha256(pixels).hexdigest()[:16] if query.images else ""
    time = datetime.now(UTC).isoformat(timespec="microseconds")
    id = sha256("\x1f".join((query.prompt, query.target, image, time)).encode()).hexdigest()[:8]
    names = tuple(image_name(image) for image in given.images)
    return Edit(id, query.prompt, query.target, image, time, names if any(names) else (), query.about)
