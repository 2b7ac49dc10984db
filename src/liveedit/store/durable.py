"""DurablePool: the pool of one editor, kept in a store that others may change, too.

Each change of the pool is one transaction. Before it, and before each answer, changes that other
processes made are read; what is read is a fraction of the store: new rows only. Of a method with a
bank the keys of all edits are in memory, and the factors of those that fired last.
"""

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, RLock
from types import MappingProxyType

import torch
from PIL import Image

from liveedit.data.images import Source, open_image
from liveedit.editors.base import Editor
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankEditor, BankPatch
from liveedit.editors.common.precedence import ledger_overruling, ledger_rows
from liveedit.errors import BadInput, Mismatch
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM
from liveedit.store.edit import Edit
from liveedit.store.pool import Pool
from liveedit.store.rows import Rows
from liveedit.store.store import Change, Kept, Maker, Store
from liveedit.store.tensors import Layout
from liveedit.types import Query, expanded

__all__ = ["DurablePool", "State", "check_maker", "image_file", "kept_query", "thumbnail"]

Images = Mapping[str, Sequence[bytes]]
NO_IMAGES: Images = MappingProxyType({})
THUMBNAIL = 160
"""Longest side of a thumbnail, in pixels."""


class DurablePool:
    """The pool of one editor on one model, and the store that keeps it.

    ``opens_with`` are the known arguments of :func:`liveedit.load`. Raises :class:`Mismatch` for a
    store whose edits another model or editor made, which it names.
    """

    def __init__(self, store: Store, empty: Pool, opens_with: dict[str, str]) -> None:
        self.store = store
        patch = empty.patch
        self._rows = Rows(store, patch) if isinstance(patch, BankPatch) else None
        self.empty = self._settled(State(empty, (), 0)).pool
        self.maker = Maker(
            empty.editor.name,
            empty.editor.fingerprint,
            empty.vlm.fingerprint,
            opens_with,
            self._rows.layout if self._rows else Layout(()),
        )
        self._state = State(self.empty, (), 0)
        self._lock = RLock()
        self._reading = Lock()
        check_makers(store, self.maker, empty.vlm)

    @property
    def pool(self) -> Pool:
        """The pool with all changes that were kept until now."""
        return self.state.pool

    @property
    def state(self) -> "State":
        """The store with all changes that were kept until now; a change going on is not awaited."""
        with self._reading:
            self._state = self._read(self._state)
            return self._state

    def change(
        self, kind: str, who: str, make: Callable[[Pool], Pool], images: Images = NO_IMAGES
    ) -> Pool:
        """Make a change of the pool and keep it; return the pool that it becomes.

        ``make`` changes a pool, and is called again where another process was faster; ``images``
        holds the images of new edits, as files, by the edit's id. A change that fails leaves no
        store where there was none.
        """
        first = None if self.store.exists else make(self.empty)
        with self._lock, self.store.change(kind, who) as change:
            check_makers(self.store, self.maker, self.empty.vlm)
            state = self.state
            pool = make(state.pool) if first is None or state.rows else first
            maker = change.maker(self.maker)
            after = self._write(change, state, pool, images, maker.number)
        after = self._settled(after)
        with self._reading:
            self.maker = maker
            self._state = after
        return after.pool

    def _settled(self, state: "State") -> "State":
        """A state that is kept, with the factors of its edits on the shelf."""
        patch = state.pool.patch
        if not isinstance(patch, BankPatch) or self._rows is None:
            return state
        patch = self._rows.settled(patch, [row.number for row in state.rows])
        return replace(state, pool=replace(state.pool, patch=patch))

    @torch.inference_mode(False)
    def _read(self, state: "State") -> "State":
        """The state with the changes that were kept since; the same if there are none."""
        version, changed = self.store.changed_since(state.version)
        if version == state.version:
            return state
        number = self._number()
        own = {row.number: row for row in changed if row.maker == number}
        if not own:
            return replace(state, version=version)
        known = {row.number: row for row in state.rows} | own
        present = [row for _, row in sorted(known.items()) if row.forgotten_in is None]
        return State(self._pool(state, present), tuple(present), version)

    def check(self, maker: Maker) -> None:
        """Raise :class:`Mismatch` for edits, not yet in the store, that others made than these."""
        check_maker(maker, self.maker, self.empty.vlm, "the file")

    def _number(self) -> int:
        """The number of this pool's maker in the store; 0 before its first edit."""
        if not self.maker.number:
            for known in self.store.makers():
                if known.identity == self.maker.identity:
                    self.maker = known
        return self.maker.number

    def _pool(self, state: "State", present: Sequence[Kept]) -> Pool:
        """The pool of these edits; what ``state`` holds of them is not read again."""
        editor = self.empty.editor
        edits = tuple(row.edit for row in present)
        if isinstance(editor, BankEditor):
            return replace(self.empty, patch=self._bank_patch(editor, state, present), edits=edits)
        content = self.store.weights(self.maker.number)
        patch = editor.empty() if content is None else unpacked(editor, content)
        queries = {row.edit.id: kept_query(self.store, row) for row in present}
        return replace(self.empty, patch=patch, edits=edits, queries=queries)

    def _bank_patch(self, editor: BankEditor, state: "State", present: Sequence[Kept]) -> BankPatch:
        """The patch of these edits, for a method that keeps each of them by itself."""
        former = state.pool.patch
        assert isinstance(former, BankPatch)
        numbers = {row.number for row in present}
        stay = [index for index, row in enumerate(state.rows) if row.number in numbers]
        bank = former.bank.select(stay)
        known = former.texts
        texts = [known[index] for index in stay]
        new = [row.number for row in present[len(stay) :]]
        if new:
            assert self._rows is not None
            bank = self._rows.extended(bank, new)
            texts += self.store.texts(new)
        patch: BankPatch = editor.from_rows(bank, texts)
        return patch.with_ledger(_ledger([row.edit for row in present]))

    def queries(self, edits: Sequence[Edit]) -> Iterator[tuple[Edit, Query]]:
        """Edits with their queries, as far as their images are kept; read one by one."""
        rows = {row.edit.id: row for row in self._state.rows}
        for edit in edits:
            row = rows.get(edit.id)
            if row and (row.pictures or not edit.image):
                yield edit, kept_query(self.store, row)

    def _write(
        self, change: Change, state: "State", pool: Pool, images: Images, maker: int
    ) -> "State":
        """Keep a changed pool, and return the state that it becomes."""
        kept = {row.edit.id: row for row in state.rows}
        wanted = {edit.id for edit in pool.edits}
        change.forget([row.number for id, row in kept.items() if id not in wanted])
        rows = []
        for index, edit in enumerate(pool.edits):
            row = kept.get(edit.id)
            if row is None:
                row = self._add(change, pool, index, images, maker)
            elif row.edit is not edit and row.edit != edit:
                change.update(row.number, edit)
                row = replace(row, edit=edit)
            rows.append(row)
        if not isinstance(pool.patch, BankPatch):
            change.set_weights(maker, packed(pool.patch))
        return State(pool, tuple(rows), change.version)

    def _add(self, change: Change, pool: Pool, index: int, images: Images, maker: int) -> Kept:
        """Add the edit at ``index`` of a pool."""
        edit = pool.edits[index]
        patch = pool.patch
        files = images.get(edit.id, ())
        keys = factors = b""
        text = ""
        if isinstance(patch, BankPatch):
            assert self._rows is not None
            keys, factors = self._rows.pack(patch.bank, index)
            text = patch.texts[index]
        return change.add(
            edit,
            maker,
            keys=keys,
            factors=factors,
            text=text,
            images=files,
            thumbnail=thumbnail(files[0]) if files else b"",
        )


@dataclass(frozen=True, slots=True)
class State:
    """The store as it was last read.

    Arguments:
        pool: The pool.
        rows: Its edits as the store keeps them, in the same order.
        version: The version of the store.
    """

    pool: Pool
    rows: tuple[Kept, ...]
    version: int


def kept_query(store: Store, row: Kept) -> Query:
    """The query of an edit with its images, which bear their names.

    Raises :class:`BadInput` where they are not kept, as those of former folders may not be.
    """
    edit = row.edit
    if edit.image and not row.pictures:
        raise BadInput(
            f"the images of edit {edit.id} are not kept: `liveedit edit` it with its images"
        )
    images = [open_image(Image.open(io.BytesIO(file))) for file in store.images(row.number)]
    for image, name in zip(images, edit.names, strict=False):
        image.info["name"] = name
    return Query(edit.prompt, edit.target, images, about=edit.about)


def check_makers(store: Store, own: Maker, vlm: VLM) -> None:
    """Raise :class:`Mismatch` for edits of another model, editor or prompt format."""
    for maker in store.makers():
        check_maker(maker, own, vlm, store)


def check_maker(made_by: Maker, own: Maker, vlm: VLM, where: object) -> None:
    """Raise :class:`Mismatch` if edits were made with another model, editor or prompt format.

    ``where`` says where they are kept.
    """
    made = made_by.opens_with
    if not vlm.known_as(made_by.model_fingerprint):
        named = " ".join(made[name] for name in ("model", "dtype") if name in made)
        which = named or "one that it does not name"
        raise Mismatch(f"the edits in {where} were made on another model ({which}): load that one")
    form = made.get("prompt_format", vlm.prompt_format)
    if form != vlm.prompt_format:
        raise Mismatch(
            f"the edits in {where} were made with another prompt format ({form}): "
            "load the model with it"
        )
    if made_by.editor_fingerprint != own.editor_fingerprint:
        raise _other_editor(made_by, own, where)


def _other_editor(made_by: Maker, own: Maker, where: object) -> Mismatch:
    """The error for edits made by another editor, or by an earlier state of this one."""
    which = made_by.opens_with.get("editor", made_by.editor)
    if which == own.opens_with.get("editor") and made_by.editor == own.editor:
        return Mismatch(
            f"the edits in {where} were made by {which} before it was trained further or "
            "replaced: restore that editor, or make the edits again elsewhere"
        )
    return Mismatch(f"the edits in {where} were made by another editor ({which}): load that one")


def _ledger(edits: Sequence[Edit]) -> Bank:
    """The ledger of edits: which of them ask the same, and which overrule which."""
    ledger = Bank(ledger_rows([edit.number for edit in edits]))
    index = {edit.id: number for number, edit in enumerate(edits)}
    overruled = {}
    for number, edit in enumerate(edits):
        if found := [index[id] for id in edit.conflicts if id in index]:
            overruled[number] = found
    return ledger_overruling(ledger, overruled) if overruled else ledger


def packed(patch: Patch) -> bytes:
    """A patch as bytes: the files that it saves."""
    stream = io.BytesIO()
    with TemporaryDirectory() as folder, zipfile.ZipFile(stream, "w") as archive:
        patch.save(Path(folder))
        for file in sorted(Path(folder).iterdir()):
            archive.write(file, file.name)
    return stream.getvalue()


def unpacked(editor: Editor, content: bytes) -> Patch:
    """The patch that :func:`packed` turned into bytes."""
    with TemporaryDirectory() as folder, zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(folder)
        patch: Patch = editor.load_patch(Path(folder))
        return patch


def image_file(image: Source) -> bytes:
    """An image as a file: the file itself, or a PNG of a picture in memory."""
    if not isinstance(image, Image.Image):
        return expanded(Path(image)).read_bytes()
    stream = io.BytesIO()
    open_image(image).save(stream, "PNG")
    return stream.getvalue()


def thumbnail(file: bytes) -> bytes:
    """A small JPEG of an image."""
    picture = open_image(Image.open(io.BytesIO(file)))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, "JPEG", quality=85)
    return stream.getvalue()
