"""EditableVLM: a VLM, an editor and the edits made so far, in one object. What most users need."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import as_file, files
from itertools import count, takewhile
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import torch
from PIL import Image

from liveedit.artifacts import locked, read_tensors, resolved_path, sync, write_tensors, writing
from liveedit.data.images import open_image, picture_hash
from liveedit.editors import load_editor
from liveedit.editors.base import Editor, TrainableEditor
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankEditor, BankPatch
from liveedit.editors.common.precedence import about, entries, overruling
from liveedit.editors.former_names import SHIPPED
from liveedit.errors import BadInput, Mismatch
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM
from liveedit.runinfo import picture_name
from liveedit.store.conflicts import Asking, conflicts, said
from liveedit.store.listing import FILE, Edit, Listing, history, spellings, tidy
from liveedit.types import Query, check_path, checked, expanded, visible

__all__ = ["EMBEDDED", "Edit", "EditableVLM", "embedded", "load", "load_vlm"]

PICTURES = "pictures.safetensors"

EMBEDDED = "emblem"
"""The name of the model that ships with the package."""


def embedded(name: str) -> Path:
    """The folder of a checkpoint that ships with the package: "vlm", or the name of an editor
    trained for it.
    """
    with as_file(files("liveedit") / "assets" / name) as folder:
        return folder


def load(
    model: str | Path = EMBEDDED, editor: str | Path = "pinpoint", **options: Any
) -> "EditableVLM":
    """A VLM with an editor, ready to be edited.

    ``model`` is "emblem" for the embedded one, a folder, or a Hugging Face id; ``editor`` the name
    of a method, or the folder of a trained one. ``options`` go to :meth:`VLM.load` (dtype,
    device_map, prompt_format).
    """
    check_path(editor)
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
    """A name or id as it is, a folder by its path from the root, so that it is found from any other
    folder.
    """
    folder = expanded(source)
    return str(folder.absolute() if folder.is_dir() else source)


def load_vlm(model: str | Path = EMBEDDED, **options: Any) -> VLM:
    """The VLM of :func:`load` alone.

    The embedded model is stored in half precision and computed in float32, which a CPU does fifty
    times faster.
    """
    if model == EMBEDDED:
        return VLM.load(embedded("vlm"), **{"dtype": torch.float32} | options)
    return VLM.load(model, **options)


class EditableVLM:
    """A VLM whose answers can be corrected. The model's own weights never change; the edits are a
    value beside it.

    ``opens_with`` says what :func:`load` was given, as far as the edits depend on it; a folder of
    edits remembers it. Raises what :meth:`VLM.check_answers` raises.
    """

    def __init__(self, vlm: VLM, editor: Editor) -> None:
        vlm.check_answers()
        self.vlm, self.editor = vlm, editor
        self.patch: Patch = editor.empty()
        self.opens_with: dict[str, str] = {}
        self._edits: list[Edit] = []
        self._asked: dict[str, Query] = {}
        """The edits' queries by id, for methods that start again where an edit is to be taken back.
        """
        self._known: dict[Path, set[str]] = {}
        """By folder the states that were loaded from there or written to it, whole or not."""
        self._lock = RLock()

    @property
    def _asking(self) -> Asking:
        return Asking(self.vlm, self.editor)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = RLock()

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits in force, oldest first."""
        return tuple(edit for edit in self.history if not edit.superseded_by)

    @property
    def history(self) -> tuple[Edit, ...]:
        """The edits in force and those superseded, oldest first; each of the latter says by which."""
        return history(self._edits)

    def edit(self, queries: Query | Sequence[Query]) -> list[Edit]:
        """Make the model answer each query's prompt about its image with its target, from now on.

        An edit of a question about an image that was edited before supersedes that edit, and is
        made for the question as it was first spelled; see :class:`Edit` for what else each says of
        itself. Raises :class:`BadInput` for an empty prompt or target, for a target that the
        tokenizer cannot write, and for an image that cannot be read; then none of the queries is
        edited.
        """
        asked = checked(queries)
        for query in asked:
            if not visible(query.prompt) or not visible(query.target):
                raise BadInput(
                    "an edit needs a question and a target: give both as text that is not empty"
                )
            self.vlm.check_target(query.target)
        opened = [
            replace(query, image=[open_image(image) for image in query.images]) for query in asked
        ]
        made = [_describe(query, given) for query, given in zip(opened, asked, strict=True)]
        with self._lock, self._editing():
            pool = isinstance(self.editor, BankEditor)
            first = spellings([*self._edits, *made])
            spelled = [
                replace(query, prompt=first[edit.number])
                for query, edit in zip(opened, made, strict=True)
            ]
            last = {edit.number: place for place, edit in enumerate(made)}
            held = [pool or last[edit.number] == place for place, edit in enumerate(made)]
            patch = self.editor.edit(
                [query for query, holds in zip(spelled, held, strict=True) if holds], self.patch
            )
            found = conflicts(self._asking, self.patch, patch, [*self._edits, *made], spelled)
            patch = _overruling(patch, found)
            took = self._took(patch, opened, spelled)
            ids = [edit.id for edit in (*self._edits, *made)]
            made = [
                replace(edit, took=answered, held=holds, conflicts=tuple(ids[at] for at in places))
                for edit, answered, holds, places in zip(made, took, held, found, strict=True)
            ]
            self.patch, self._edits = patch, [*self._edits, *made]
            if not pool:
                self._asked |= {edit.id: query for edit, query in zip(made, opened, strict=True)}
                self._clear(opened, spelled)
            return list(self.history[len(self._edits) - len(made) :])

    def _clear(self, opened: Sequence[Query], spelled: Sequence[Query]) -> None:
        """Make all edits in force anew, ``opened`` being the last, if weights still hold one that
        is not in force.
        """
        if not any(
            edit.superseded_by and edit.held for edit in self.history
        ) or not self._remembers(self.edits):
            return
        self._start_again(self._edits)
        older, new = self._edits[: -len(opened)], self._edits[-len(opened) :]
        took = self._took(self.patch, opened, spelled)
        self._edits = [
            *older,
            *(replace(edit, took=answered) for edit, answered in zip(new, took, strict=True)),
        ]

    def _took(self, patch: Patch, queries: Sequence[Query], spelled: Sequence[Query]) -> list[bool]:
        """Whether the answer to each query under a patch is its target, and to the question as it
        was first spelled.
        """
        again = [at for at, query in enumerate(queries) if query.prompt != spelled[at].prompt]
        asked = [*queries, *(spelled[at] for at in again)]
        replies = self._asking.replies(patch, asked, [query.target for query in queries])
        answered = [
            said(reply.text, query.target) for reply, query in zip(replies, asked, strict=True)
        ]
        took = answered[: len(queries)]
        for at, as_before in zip(again, answered[len(queries) :], strict=True):
            took[at] = took[at] and as_before
        return took

    @contextmanager
    def _editing(self) -> Iterator[None]:
        """Within it the model is as it was, and gradients are to be had, whatever the caller is in."""
        with self.vlm.unpatched(), torch.inference_mode(False), torch.enable_grad():
            yield

    def _places(self) -> list[int]:
        """The place among all edits of each that the patch holds."""
        return [place for place, edit in enumerate(self._edits) if edit.held]

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
        with self._lock:
            patch, places, made = self.patch, self._places(), self.history
        with self.vlm.unpatched(), self.vlm.patched(patch):
            [reply] = self.vlm.answers([query], max_new_tokens=1)
        fired = sorted(reply.fired, key=lambda pair: -pair[1])
        return [(made[places[expert]], weight) for expert, weight in fired]

    def forget(self, ids: str | Iterable[str]) -> list[Edit]:
        """Take edits back, by their ids or the beginnings of these; those taken back, in their
        order.

        Raises :class:`BadInput` for an id that is not in force or a beginning that several share;
        then none is.
        """
        wanted = (
            [ids] if isinstance(ids, str) else list(ids) if isinstance(ids, Iterable) else [ids]
        )
        if not all(isinstance(id, str) for id in wanted):
            raise BadInput("an edit's id is text: give one that `edits` lists, or several")
        with self._lock:
            gone = {self._place(id) for id in wanted}
            keep = [i for i in range(len(self._edits)) if i not in gone]
            taken = [self._edits[i] for i in sorted(gone)]
            if isinstance(self.editor, BankEditor):
                self.patch = self.editor.select(self.patch, keep)
                self._edits = [self._edits[i] for i in keep]
            else:
                with self._editing():
                    self._start_again([self._edits[i] for i in keep])
        return taken

    def _start_again(self, edits: Sequence[Edit]) -> None:
        """Make those of ``edits`` that are in force anew. Raises :class:`BadInput` where their
        images are not kept.
        """
        last = {edit.number: edit.id for edit in edits}
        force = [edit for edit in edits if last[edit.number] == edit.id]
        if not self._remembers(force):
            raise BadInput(
                f"{self.editor.name} takes an edit back by making the others anew, and has not all of their images: "
                "restore the folder from a copy, or make the edits again elsewhere"
            )
        patch = self.editor.empty()
        if force:
            first = spellings(edits)
            patch = self.editor.edit(
                [replace(self._asked[edit.id], prompt=first[edit.number]) for edit in force]
            )
        self.patch, self._edits = (
            patch,
            [replace(edit, held=last[edit.number] == edit.id) for edit in edits],
        )

    def _remembers(self, edits: Sequence[Edit]) -> bool:
        """Whether the queries of these edits are kept."""
        return all(edit.id in self._asked for edit in edits)

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
        """Write the edits to ``folder``, all or nothing: a save that fails or is killed leaves what
        was there.

        ``folder`` is a new or an empty one, or one that holds edits, which are replaced; other
        files in it stay as they are. Raises :class:`BadInput` for a folder of somebody else's, for
        a file, and where others have changed the edits since they were loaded from there or saved,
        :class:`StorageError` if it cannot be written.
        """
        Listing.find(folder)
        target = resolved_path(folder)
        with self._lock, locked(target):
            before = Listing.find(target)
            known = self._known.setdefault(target, {before.tensors} if before else set())
            if before and before.tensors not in known:
                raise BadInput(
                    f"others have changed the edits in {folder}: load them again, or choose another folder"
                )
            listing = Listing(
                editor=self.editor.name,
                editor_fingerprint=self.editor.fingerprint,
                model_fingerprint=self.vlm.fingerprint,
                edits=tuple(self._edits),
                opens_with=self.opens_with | {"prompt_format": self.vlm.prompt_format},
            )
            try:
                self.patch.save(target / listing.tensors)
                if not isinstance(self.editor, BankEditor):
                    _save_pictures(
                        self._asked, self._edits, target / listing.tensors, listing.origin
                    )
                with writing(folder):
                    sync(target)
                known.add(listing.tensors)
                listing.write(target)
            finally:
                tidy(target, before)
        return target

    @torch.inference_mode(False)
    def load(self, folder: str | Path) -> None:
        """Take the edits of ``folder`` in place of the present ones, and its editor if that shipped
        with us before.

        Raises :class:`BadInput` if there are none or the files are damaged, :class:`Mismatch` if
        they were made with another model, editor or prompt format, which it names.
        """
        listing = Listing.read(folder)
        editor = self._maker(listing, folder)
        while True:
            try:
                patch = editor.load_patch(resolved_path(folder) / listing.tensors)
                break
            except BadInput:  # unless another process has just replaced the edits and removed these
                known, listing = listing, Listing.read(folder)
                if listing == known:
                    raise
        held = sum(edit.held for edit in listing.edits)
        if len(patch) != held:
            raise BadInput(
                f"{resolved_path(folder) / FILE} is damaged, it lists {held} edits of {len(patch)}: "
                "restore it from a copy, or make the edits again elsewhere"
            )
        if isinstance(patch, BankPatch) and bool(
            (patch.ledger["asked"] < 0).any()
        ):  # from before there was one
            patch = patch.with_ledger(Bank(entries([edit.number for edit in listing.edits])))
        asked = _load_pictures(listing, resolved_path(folder) / listing.tensors)
        with self._lock:
            self.editor, self.patch, self._edits, self._asked = (
                editor,
                patch,
                list(listing.edits),
                asked,
            )
            self._known[resolved_path(folder)] = {listing.tensors}
        self.opens_with = {**listing.opens_with, **self.opens_with}

    def _maker(self, listing: Listing, folder: str | Path) -> Editor:
        """The editor that made a pool: this one or, where this is its successor, one that shipped
        before.

        Raises :class:`Mismatch` for edits that were made with another model, editor or prompt
        format.
        """
        made, fingerprint = listing.opens_with, listing.editor_fingerprint
        if not self.vlm.known_as(listing.model_fingerprint):
            which = (
                " ".join(made[name] for name in ("model", "dtype") if name in made)
                or "one that it does not name"
            )
            raise Mismatch(
                f"the edits in {folder} were made on another model ({which}): load that one"
            )
        if (form := made.get("prompt_format", self.vlm.prompt_format)) != self.vlm.prompt_format:
            raise Mismatch(
                f"the edits in {folder} were made with another prompt format ({form}): load the model with it"
            )
        if fingerprint == self.editor.fingerprint:
            return self.editor
        if self.editor.name not in ("pinpoint", "liveedit") or fingerprint not in SHIPPED:
            which = made.get("editor", listing.editor)
            if which == self.opens_with.get("editor") and listing.editor == self.editor.name:
                raise Mismatch(
                    f"the edits in {folder} were made by {which} before it was trained further or replaced: "
                    "restore that editor, or make the edits again elsewhere"
                )
            raise Mismatch(
                f"the edits in {folder} were made by another editor ({which}): load that one"
            )
        editor = load_editor(self.vlm, embedded(SHIPPED[fingerprint]))
        assert isinstance(editor, TrainableEditor)
        editor.adopt_fingerprint(fingerprint)
        return editor


def _overruling(patch: Patch, conflicts: Sequence[Sequence[int]]) -> Patch:
    """The patch with its newest edits, as many as there are conflicts, overruling those at these
    places.
    """
    if not isinstance(patch, BankPatch) or not any(conflicts):
        return patch
    first = len(patch) - len(conflicts)
    return patch.with_ledger(
        overruling(patch.ledger, {first + row: at for row, at in enumerate(conflicts) if at})
    )


def _describe(query: Query, given: Query) -> Edit:
    """The listing of a new edit; its id is the hash of what it says and when. ``given`` has the
    images' names.
    """
    image = picture_hash(query.images)
    time = datetime.now(UTC).isoformat(timespec="microseconds")
    id = sha256("\x1f".join((query.prompt, query.target, image, time)).encode()).hexdigest()[:8]
    names = tuple(picture_name(image) for image in given.images)
    return Edit(
        id, query.prompt, query.target, image, time, names if any(names) else (), about(query)
    )


def _save_pictures(
    asked: Mapping[str, Query], edits: Sequence[Edit], folder: Path, origin: Mapping[str, str]
) -> None:
    """Keep the images of edits, to make these anew from."""
    tensors = {
        f"{edit.id}.{number}": torch.from_numpy(np.array(image))
        for edit in edits
        if edit.id in asked
        for number, image in enumerate(asked[edit.id].images)
    }
    if tensors:
        write_tensors(folder / PICTURES, tensors, origin)


def _load_pictures(listing: Listing, folder: Path) -> dict[str, Query]:
    """The queries of the edits whose images :func:`_save_pictures` has kept, and of those without."""
    file = folder / PICTURES
    kept = read_tensors(file)[0] if file.is_file() else {}
    found = {}
    for edit in listing.edits:
        names = (f"{edit.id}.{number}" for number in count())
        images = [
            Image.fromarray(kept[name].numpy()) for name in takewhile(kept.__contains__, names)
        ]
        if images or not edit.image:
            found[edit.id] = Query(edit.prompt, edit.target, images, about=edit.about)
    return found
