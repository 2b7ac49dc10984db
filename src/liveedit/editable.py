"""EditableVLM: a VLM, an editor and the edits made so far, in one object. What most users need."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import as_file, files
from pathlib import Path
from threading import RLock
from typing import Any
from unicodedata import category

import numpy as np
import torch
from PIL import Image

from liveedit.artifacts import locked, place, read_tensors, sync, write_tensors, writing
from liveedit.data.images import open_image, picture_hash
from liveedit.editors import load_editor
from liveedit.editors.bank import Bank
from liveedit.editors.base import Editor, TrainableEditor
from liveedit.editors.former import SHIPPED
from liveedit.editors.pool import BankPatch, PoolEditor
from liveedit.editors.precedence import about, entries, overruling
from liveedit.errors import BadInput, Mismatch
from liveedit.listing import FILE, Edit, Listing, history, question, tidy
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM
from liveedit.runinfo import name as image_name
from liveedit.types import Query, check_path, checked

__all__ = ["EMBEDDED", "Edit", "EditableVLM", "embedded", "load", "load_vlm"]

PICTURES = "pictures.safetensors"

EMBEDDED = "emblem"
"""The name of the model that ships with the package."""

SEPARATE = "PZC"
"""Kinds of Unicode that may follow an answer: punctuation, blanks and line ends."""


def embedded(name: str) -> Path:
    """The folder of a checkpoint that ships with the package: "vlm", or the name of an editor trained for it."""
    with as_file(files("liveedit") / "assets" / name) as folder:
        return folder


def load(model: str | Path = EMBEDDED, editor: str | Path = "pinpoint", **options: Any) -> "EditableVLM":
    """A VLM with an editor, ready to be edited.

    ``model`` is "emblem" for the embedded one, a folder, or a Hugging Face id; ``editor`` the name of a method, or the
    folder of a trained one. ``options`` go to :meth:`VLM.load` (dtype, device_map, prompt_format).
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
        self._asked: dict[str, Query] = {}
        """The edits' queries by id, for methods that start again where an edit is to be taken back."""
        self._lock = RLock()

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

        An edit of a question about an image that was edited before supersedes that edit; see :class:`Edit` for what
        else each says of itself. Raises :class:`BadInput` for an empty prompt or target, for a target that the
        tokenizer cannot write, and for an image that cannot be read; then none of the queries is edited.
        """
        asked = checked(queries)
        for query in asked:
            if not query.prompt.strip() or not query.target.strip():
                raise BadInput("an edit needs a question and a target: give both as text that is not empty")
            self.vlm.check_target(query.target)
        opened = [replace(query, image=[open_image(image) for image in query.images]) for query in asked]
        made = [_describe(query, given) for query, given in zip(opened, asked, strict=True)]
        with self._lock, self._editing():
            pool = isinstance(self.editor, PoolEditor)
            conflicts = self._conflicts(opened, made)
            last = {edit.number: place for place, edit in enumerate(made)}
            held = [pool or last[edit.number] == place for place, edit in enumerate(made)]
            patch = self.editor.edit([query for query, holds in zip(opened, held, strict=True) if holds], self.patch)
            among = self._among(patch, made, opened)
            conflicts = [[*before, *beside] for before, beside in zip(conflicts, among, strict=True)]
            patch = _overruling(patch, conflicts)
            answers = self._answers(patch, opened)
            ids = [edit.id for edit in (*self._edits, *made)]
            made = [
                replace(edit, took=said(answer, edit.target), held=holds, conflicts=tuple(ids[at] for at in places))
                for edit, answer, holds, places in zip(made, answers, held, conflicts, strict=True)
            ]
            self.patch, self._edits = patch, [*self._edits, *made]
            if not pool:
                self._asked |= {edit.id: query for edit, query in zip(made, opened, strict=True)}
                made = self._insisted(made, opened)
        return made

    def _insisted(self, made: list[Edit], opened: Sequence[Query]) -> list[Edit]:
        """The new edits, once those are made anew without what they supersede, if that kept them from taking."""
        superseded = any(edit.superseded_by and edit.held for edit in self.history)
        open_ones = [edit for edit in made if edit.held and not edit.took]
        if not (superseded and open_ones and self._remembers(self.edits)):
            return made
        self._start_again(self._edits)
        answers = self._answers(self.patch, opened)
        ids = {edit.id: said(answer, edit.target) for edit, answer in zip(made, answers, strict=True)}
        self._edits = [replace(edit, took=ids.get(edit.id, edit.took)) for edit in self._edits]
        return self._edits[-len(made) :]

    def _conflicts(self, queries: Sequence[Query], made: Sequence[Edit]) -> list[list[int]]:
        """For each new edit the places of the earlier ones that it is in conflict with.

        These edit the same question about another image with another answer, are in force, and act on its image.
        """
        force = {place: edit for place, edit in enumerate(self.history) if not edit.superseded_by}
        alike = _rivals(force, made)
        given_way = [self._given_way(edit) for edit in made]
        rows = [row for row, places in enumerate(alike) if places]
        found: list[list[int]] = [[] for _ in made]
        if rows:
            asked = [queries[row] for row in rows]
            with self.vlm.patched(self.patch):
                replies = self.vlm.answers(asked, max_new_tokens=self._room(query.target for query in queries))
            held, unedited = self._places(), self._answers(self.editor.empty(), asked)
            for row, reply, plain in zip(rows, replies, unedited, strict=True):
                fired = {held[expert] for expert, _ in reply.fired}
                found[row] = [
                    place
                    for place in alike[row]
                    if place in fired | given_way[row]
                    or (not fired and _turned(plain, reply.text, self._edits[place].target))
                ]
        return found

    def _given_way(self, edit: Edit) -> set[int]:
        """The places of the edits that give way to one which ``edit`` supersedes, and so do not act in its presence."""
        ids = {id for older in self.edits if older.number == edit.number for id in older.conflicts}
        return {place for place, older in enumerate(self._edits) if older.id in ids}

    def _among(self, patch: Patch, made: Sequence[Edit], queries: Sequence[Query]) -> list[list[int]]:
        """For each new edit the places of those made with it, but given before it, that it is in conflict with."""
        first = len(self._edits)
        before = _rivals_before(made, first)
        found: list[list[int]] = [[] for _ in made]
        given_way: dict[int, set[int]] = defaultdict(set)
        for row, earlier, held in self._stages(patch, before, queries):
            targets = {place: made[place - first].target for place in before[row]}
            acting = self._acting(earlier, held, queries[row], targets)
            found[row] = sorted(before[row] & (acting | given_way[made[row].number]))
            given_way[made[row].number].update(found[row])
        return found

    def _stages(
        self, patch: Patch, before: Sequence[set[int]], queries: Sequence[Query]
    ) -> Iterator[tuple[int, Patch, Sequence[int]]]:
        """Each new query that has rivals before it, by its row, with the patch as if made one by one until then.

        And the places of the edits in it: a pool's are all there, of others those that are somebody's rivals are made.
        """
        first, held, earlier = len(self._edits), self._places(), self.patch
        needed = set().union(*before)
        for at, (rivals, query) in enumerate(zip(before, queries, strict=True), first):
            if rivals:
                if isinstance(self.editor, PoolEditor):
                    earlier = self.editor.select(patch, held)
                yield at - first, earlier, held
            if isinstance(self.editor, PoolEditor):
                held.append(at)
            elif at in needed:
                held.append(at)
                earlier = self.editor.edit([query], earlier)

    def _acting(self, patch: Patch, held: Sequence[int], query: Query, targets: Mapping[int, str]) -> set[int]:
        """Of edits, their targets by place, those that a patch lets act on a query.

        They take part in the answer; or it has become theirs, of a method that cannot tell.
        """
        pool = isinstance(self.editor, PoolEditor)
        with self.vlm.patched(patch):
            [reply] = self.vlm.answers([query], max_new_tokens=1 if pool else self._room(targets.values()))
        fired = {held[expert] for expert, _ in reply.fired}
        if fired or pool:
            return fired
        [plain] = self._answers(self.editor.empty(), [query])
        return {place for place, target in targets.items() if _turned(plain, reply.text, target)}

    def _answers(self, patch: Patch, queries: Sequence[Query]) -> list[str]:
        """The answers under a patch, each with room for all targets."""
        if not queries:
            return []
        with self.vlm.patched(patch):
            return self.vlm.generate(queries, max_new_tokens=self._room(query.target for query in queries))

    def _room(self, targets: Iterable[str]) -> int:
        """Tokens of the longest target, after a blank, and one more, which tells whether the answer goes on."""
        ids = self.vlm.tokenizer([f" {target}" for target in targets], add_special_tokens=False)["input_ids"]
        return 1 + max(map(len, ids))

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
        """Take edits back, by their ids or the beginnings of these; those taken back, in their order.

        Raises :class:`BadInput` for an id that is not in force or a beginning that several share; then none is.
        """
        wanted = [ids] if isinstance(ids, str) else list(ids) if isinstance(ids, Iterable) else [ids]
        if not all(isinstance(id, str) for id in wanted):
            raise BadInput("an edit's id is text: give one that `edits` lists, or several")
        with self._lock:
            gone = {self._place(id) for id in wanted}
            keep = [i for i in range(len(self._edits)) if i not in gone]
            taken = [self._edits[i] for i in sorted(gone)]
            if isinstance(self.editor, PoolEditor):
                self.patch = self.editor.select(self.patch, keep)
                self._edits = [self._edits[i] for i in keep]
            else:
                with self._editing():
                    self._start_again([self._edits[i] for i in keep])
        return taken

    def _start_again(self, edits: Sequence[Edit]) -> None:
        """Make those of ``edits`` that are in force anew. Raises :class:`BadInput` where their images are not kept."""
        last = {edit.number: edit.id for edit in edits}
        force = [edit for edit in edits if last[edit.number] == edit.id]
        if not self._remembers(force):
            raise BadInput(f"{self.editor.name} cannot take back single edits: start again without them")
        patch = self.editor.empty()
        if force:
            patch = self.editor.edit([self._asked[edit.id] for edit in force])
        self.patch, self._edits = patch, [replace(edit, held=last[edit.number] == edit.id) for edit in edits]

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
        """Write the edits to ``folder``, all or nothing: a save that fails or is killed leaves what was there.

        ``folder`` is a new or an empty one, or one that holds edits, which are replaced; other files in it stay as they
        are. Raises :class:`BadInput` for a folder of somebody else's and for a file, :class:`StorageError` if it cannot
        be written.
        """
        Listing.find(folder)
        target = place(folder)
        with self._lock, locked(target):
            before = Listing.find(target)
            listing = Listing(
                editor=self.editor.name,
                editor_fingerprint=self.editor.fingerprint,
                model_fingerprint=self.vlm.fingerprint,
                edits=tuple(self._edits),
                opens_with=self.opens_with | {"prompt_format": self.vlm.prompt_format},
            )
            try:
                self.patch.save(target / listing.tensors)
                if not isinstance(self.editor, PoolEditor):
                    _save_pictures(self._asked, self._edits, target / listing.tensors, listing.origin)
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
        held = sum(edit.held for edit in listing.edits)
        if len(patch) != held:
            raise BadInput(
                f"{place(folder) / FILE} is damaged, it lists {held} edits of {len(patch)}: "
                "restore it from a copy, or make the edits again elsewhere"
            )
        if isinstance(patch, BankPatch) and bool((patch.ledger["asked"] < 0).any()):  # from before there was one
            patch = patch.listed(Bank(entries([edit.number for edit in listing.edits])))
        asked = _load_pictures(listing, place(folder) / listing.tensors)
        with self._lock:
            self.editor, self.patch, self._edits, self._asked = editor, patch, list(listing.edits), asked
        self.opens_with = {**listing.opens_with, **self.opens_with}

    def _maker(self, listing: Listing, folder: str | Path) -> Editor:
        """The editor that made a pool: this one or, where this is its successor, one that shipped before.

        Raises :class:`Mismatch` for edits that were made with another model, editor or prompt format.
        """
        made, fingerprint = listing.opens_with, listing.editor_fingerprint
        if not self.vlm.known_as(listing.model_fingerprint):
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


def _overruling(patch: Patch, conflicts: Sequence[Sequence[int]]) -> Patch:
    """The patch with its newest edits, as many as there are conflicts, overruling those at these places."""
    if not isinstance(patch, BankPatch) or not any(conflicts):
        return patch
    first = len(patch) - len(conflicts)
    return patch.listed(overruling(patch.ledger, {first + row: at for row, at in enumerate(conflicts) if at}))


def _describe(query: Query, given: Query) -> Edit:
    """The listing of a new edit; its id is the hash of what it says and when. ``given`` has the images' names."""
    image = picture_hash(query.images)
    time = datetime.now(UTC).isoformat(timespec="microseconds")
    id = sha256("\x1f".join((query.prompt, query.target, image, time)).encode()).hexdigest()[:8]
    names = tuple(image_name(image) for image in given.images)
    return Edit(id, query.prompt, query.target, image, time, names if any(names) else (), about(query))


def _rivals(older: Mapping[int, Edit], newer: Sequence[Edit]) -> list[list[int]]:
    """For each newer edit the places of the older ones that answer its question about another image otherwise."""
    alike: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for at, edit in older.items():
        alike[question(edit.prompt)].append((at, edit.image, question(edit.target)))

    def found(edit: Edit) -> list[int]:
        answer, places = question(edit.target), alike[question(edit.prompt)]
        return [at for at, image, other in places if image and image != edit.image and other != answer]

    return [found(edit) if edit.image else [] for edit in newer]


def _rivals_before(made: Sequence[Edit], first: int) -> list[set[int]]:
    """For each new edit the places, from ``first`` on, of its rivals given before it and in force until then."""
    found: list[set[int]] = []
    force: dict[int, int] = {}
    for at, (edit, rivals) in enumerate(zip(made, _rivals(dict(enumerate(made, first)), made), strict=True), first):
        found.append({place for place in rivals if force.get(made[place - first].number) == place})
        force[edit.number] = at
    return found


def _turned(before: str, after: str, target: str) -> bool:
    """Whether an answer is the target only since the edits were made."""
    return said(after, target) and not said(before, target)


def said(answer: str, target: str) -> bool:
    """Whether an answer is the target, or begins with it; case and the length of white space do not matter."""
    found, wanted = question(answer), question(target)
    rest = found[len(wanted) :]
    return found.startswith(wanted) and (not rest or category(rest[0])[0] in SEPARATE)


def _save_pictures(asked: Mapping[str, Query], edits: Sequence[Edit], folder: Path, origin: Mapping[str, str]) -> None:
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
        images = [Image.fromarray(kept[name].numpy()) for name in sorted(kept) if name.startswith(f"{edit.id}.")]
        if images or not edit.image:
            found[edit.id] = Query(edit.prompt, edit.target, images, about=edit.about)
    return found
