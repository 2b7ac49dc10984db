"""DurablePool: the pool of a store, which others may change, too.

Each change of the pool is one transaction. Before it, and before each answer, changes that other
processes made are read; what is read is a fraction of the store: new rows only. Of a method with a
bank the keys of all edits are in memory, and the factors of those that fired last.
"""

import io
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, RLock
from types import MappingProxyType
from typing import cast

import torch
from PIL import Image

from liveedit.data.images import Source, open_image
from liveedit.editors.base import Editor
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankEditor, BankPatch
from liveedit.editors.common.mixed import MixedEditor, MixedPatch
from liveedit.editors.common.precedence import ledger_overruling, ledger_rows
from liveedit.errors import BadInput, Mismatch
from liveedit.models.patch import Patch
from liveedit.store.edit import Edit
from liveedit.store.makers import Makers, Opener
from liveedit.store.pool import Pool
from liveedit.store.rows import Rows
from liveedit.store.store import Change, Kept, Store
from liveedit.types import Query, expanded

__all__ = ["DurablePool", "State", "image_file", "kept_query", "thumbnail"]

Images = Mapping[str, Sequence[bytes]]
NO_IMAGES: Images = MappingProxyType({})
THUMBNAIL = 160
"""Longest side of a thumbnail, in pixels."""


class DurablePool:
    """The edits on one model, and the store that keeps them.

    The editor of the pool ``empty`` makes the new ones; ``opens_with`` are the known arguments of
    :func:`liveedit.load`, and ``opener`` opens the editors of the others. Raises :class:`Mismatch`
    for a store whose edits were made on another model, and as :meth:`Makers.check`.
    """

    def __init__(
        self, store: Store, empty: Pool, opens_with: dict[str, str], opener: Opener
    ) -> None:
        self.store = store
        self.makers = Makers(store, empty.editor, opens_with, opener)
        self._rows: dict[str, Rows] = {}
        self.empty = self._settled(State(empty, (), 0)).pool
        self._state = State(self.empty, (), 0)
        self._lock = RLock()
        self._reading = Lock()
        self.makers.check()

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
            self.makers.check()
            state = self.state
            pool = make(state.pool) if first is None or state.rows else first
            after = self._write(change, state, pool, images)
        after = self._settled(after)
        with self._reading:
            self._state = after
        return after.pool

    def _rows_of(self, patch: BankPatch) -> Rows:
        """The tensors of the edits of a patch's editor, as the store keeps them."""
        editor = patch.editor
        if editor.fingerprint not in self._rows:
            self._rows[editor.fingerprint] = Rows(self.store, editor.empty())
        return self._rows[editor.fingerprint]

    def _settled(self, state: "State") -> "State":
        """A state that is kept, with the factors of its edits on their editors' shelves."""
        patch = state.pool.patch
        if not isinstance(patch, BankPatch):
            return state
        numbers = [row.number for row in state.rows]
        if isinstance(patch, MixedPatch):
            patch = patch.with_parts(
                self._rows_of(part).settled(part, [numbers[place] for place in places.tolist()])
                for part, places in zip(patch.parts, patch.places, strict=True)
            )
        else:
            patch = self._rows_of(patch).settled(patch, numbers)
        return replace(state, pool=replace(state.pool, patch=patch))

    @torch.inference_mode(False)
    def _read(self, state: "State") -> "State":
        """The state with the changes that were kept since; the same if there are none."""
        version, changed = self.store.changed_since(state.version)
        if version == state.version:
            return state
        known = {row.number: row for row in state.rows}
        known |= {row.number: row for row in changed if self._opens(row, known)}
        present = [row for _, row in sorted(known.items()) if row.forgotten_in is None]
        return State(self._pool(state, present), tuple(present), version)

    def _opens(self, row: Kept, known: Mapping[int, Kept]) -> bool:
        """Whether a changed edit is one of the ``known``, or can be opened; else warn.

        So an editor that is missing here stops neither the answers of a process that is running nor
        its reading of other edits; :meth:`change` refuses to go on without that editor.
        """
        if row.number in known or row.forgotten_in is not None:
            return row.number in known
        try:
            self.makers.editor(row.maker)
        except Mismatch as error:
            warnings.warn(f"some edits do not act: {error}", stacklevel=2)
            return False
        return True

    def _pool(self, state: "State", present: Sequence[Kept]) -> Pool:
        """The pool of these edits; what ``state`` holds of them is not read again."""
        editor = self._mixed(present)
        edits = tuple(row.edit for row in present)
        if isinstance(editor, MixedEditor):
            mixed = self._mixed_patch(editor, state, present)
            return replace(self.empty, editor=editor, patch=mixed, edits=edits)
        if isinstance(editor, BankEditor):
            part = self._part(state, editor)
            return replace(self.empty, patch=self._bank_patch(editor, part, present), edits=edits)
        content = self.store.weights(present[0].maker) if present else None
        patch = editor.empty() if content is None else unpacked(editor, content)
        queries = {row.edit.id: kept_query(self.store, row) for row in present}
        return replace(self.empty, patch=patch, edits=edits, queries=queries)

    def _mixed(self, present: Sequence[Kept]) -> Editor:
        """The editor of these edits and of new ones: a mixed one where it takes several."""
        own = self.empty.editor
        editors = [self.makers.editor(number) for number in sorted({row.maker for row in present})]
        others = [editor for editor in editors if editor is not own]
        if not others:
            return own
        return MixedEditor(cast("list[BankEditor]", [own, *others]))  # as they mix

    def _mixed_patch(
        self, editor: MixedEditor, state: "State", present: Sequence[Kept]
    ) -> MixedPatch:
        """The patch of edits that several editors made."""
        made_by = {row.maker: self.makers.editor(row.maker) for row in present}
        number = {maker: editor.editors.index(each) for maker, each in made_by.items()}
        parts = [
            self._bank_patch(
                each,
                self._part(state, each),
                [row for row in present if made_by[row.maker] is each],
            )
            for each in editor.editors
        ]
        patch = editor.of_parts(parts, [number[row.maker] for row in present])
        return patch.with_ledger(_ledger([row.edit for row in present]))

    def _part(self, state: "State", editor: BankEditor) -> "State":
        """The edits of a state that one editor made."""
        if state.pool.editor is editor:
            return state
        rows = tuple(row for row in state.rows if self.makers.editor(row.maker) is editor)
        patch = state.pool.patch
        assert isinstance(patch, BankPatch)
        part = replace(state, pool=Pool(self.empty.vlm, editor, patch.made_by(editor)), rows=rows)
        return self._settled(part)

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
            bank = self._rows_of(former).extended(bank, new)
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

    def _write(self, change: Change, state: "State", pool: Pool, images: Images) -> "State":
        """Keep a changed pool, and return the state that it becomes."""
        makers = {
            editor.fingerprint: self.makers.keep(change, editor) for editor in pool.editor.editors
        }
        kept = {row.edit.id: row for row in state.rows}
        wanted = {edit.id for edit in pool.edits}
        change.forget([row.number for id, row in kept.items() if id not in wanted])
        rows = []
        for index, edit in enumerate(pool.edits):
            row = kept.get(edit.id)
            if row is None:
                maker = makers[pool.editor.editor_of(pool.patch, index).fingerprint]
                row = self._add(change, pool, index, images, maker)
            elif row.edit is not edit and row.edit != edit:
                change.update(row.number, edit)
                row = replace(row, edit=edit)
            rows.append(row)
        if not isinstance(pool.patch, BankPatch):
            change.set_weights(makers[pool.editor.fingerprint], packed(pool.patch))
        return State(pool, tuple(rows), change.version)

    def _add(self, change: Change, pool: Pool, index: int, images: Images, maker: int) -> Kept:
        """Add the edit at ``index`` of a pool, made by the ``maker`` of this number."""
        edit = pool.edits[index]
        patch = pool.patch
        files = images.get(edit.id, ())
        keys = factors = b""
        text = ""
        if isinstance(patch, BankPatch):
            part, row = patch.row(index)
            keys, factors = self._rows_of(part).pack(part.bank, row)
            text = part.texts[row]
        return change.add(
            edit,
            maker,
            keys=keys,
            factors=factors,
            text=text,
            images=files,
            thumbnail=thumbnail(files[0]) if files else b"",
        )


@dataclass(frozen=True)
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

    @cached_property
    def held(self) -> list[Kept]:
        """The edits that the patch holds, in its order."""
        return [row for row in self.rows if row.edit.held]


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
