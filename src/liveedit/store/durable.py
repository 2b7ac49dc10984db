"""DurablePool: the pool of a store, which others may change, too.

Each change of the pool is one transaction. Before it, and before each answer, changes that other
processes made are read; what is read is a fraction of the store: new rows only. What is in memory
of the edits of a method with a bank, ``rows.py`` says.
"""

import io
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import compress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, RLock
from types import MappingProxyType
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from liveedit.data.images import Source, open_image
from liveedit.editors.base import Editor
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankEditor, BankPatch
from liveedit.editors.common.mixed import MixedEditor, MixedPatch
from liveedit.editors.common.precedence import ledger_overruling, ledger_rows
from liveedit.errors import BadInput, LiveEditError, Mismatch
from liveedit.models.patch import Patch
from liveedit.store.edit import Edit
from liveedit.store.makers import Makers, Opener
from liveedit.store.pool import Pool
from liveedit.store.roll import ListedRoll, StoredRoll
from liveedit.store.rows import Rows
from liveedit.store.store import Change, Kept, Store
from liveedit.types import Query, expanded

__all__ = ["DurablePool", "State", "image_file", "kept_query", "thumbnail"]

LOG = logging.getLogger(__name__)
Images = Mapping[str, Sequence[bytes]]
NO_IMAGES: Images = MappingProxyType({})
ROWS = 4096
"""Edits of which what is said stays in memory, those that fired last."""
Made = tuple[int, int, int]
"""Number, maker and question of an edit that was made."""
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
        if isinstance(empty.editor, BankEditor):
            empty = replace(empty, roll=StoredRoll(store, torch.empty(0).long(), 0))
        self._row = lru_cache(ROWS)(lambda number: store.by_number([number])[0])
        none = torch.empty(0, dtype=torch.long)
        self._none = self._settled(State(empty, none, none, none, 0, self._row))
        self.empty = self._none.pool
        self._state = self._none
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
            pool = make(state.pool) if first is None or len(state.numbers) else first
            after = self._write(change, state, pool, images)
        after = self._settled(after) if after else self._read(self._none)
        with self._reading:
            self._state = after
        self._learn(after)
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
        if isinstance(patch, MixedPatch):
            patch = patch.with_parts(
                self._rows_of(part).settled(part, state.numbers[places])
                for part, places in zip(patch.parts, patch.places, strict=True)
            )
        else:
            patch = self._rows_of(patch).settled(patch, state.numbers)
        return replace(state, pool=replace(state.pool, patch=patch))

    def _learn(self, state: "State") -> None:
        """Learn anew how keys are sketched, where the edits of an editor are enough for it.

        The change is kept already, so what keeps this from being done is only logged.
        """
        if not isinstance(state.pool.patch, BankPatch):
            return
        for part, places in _parts(state.pool.patch):
            rows = self._rows_of(part)
            try:
                if rows.is_due(len(part)):
                    rows.learn(int(state.makers[places[-1]]), state.numbers[places].tolist())
            except LiveEditError as error:
                LOG.warning("the keys of %s are not sketched anew: %s", self.store, error)

    # Reading

    @torch.inference_mode(False)
    def _read(self, state: "State") -> "State":
        """The state with the changes that were kept since; the same if there are none."""
        news = self.store.news(state.version)
        if news.version == state.version:
            return state
        if not isinstance(self.empty.editor, BankEditor):
            return self._read_whole(news.version)
        made = [row for row in news.made if self._opens(row[1])]
        stays = ~torch.isin(state.numbers, torch.tensor(news.gone, dtype=torch.long))
        numbers = torch.cat([state.numbers[stays], _column(made, 0)])
        makers = torch.cat([state.makers[stays], _column(made, 1)])
        in_conflict = {**state.in_conflict, **news.in_conflict}
        ledger = _ledger(state, stays, made, numbers, in_conflict)
        patch = self._patch(state, stays, made, makers).with_ledger(ledger)
        if bool(stays.all()):
            patch = patch.following(_bank_patch(state))
        roll = StoredRoll(self.store, numbers, news.version)
        pool = replace(self.empty, editor=patch.editor, patch=patch, roll=roll)
        return State(pool, numbers, numbers, makers, news.version, self._row, in_conflict)

    def _read_whole(self, version: int) -> "State":
        """The state of a method whose weights hold all edits."""
        rows = [row for row in self.store.kept(version) if self._opens(row.maker)]
        editor = self.empty.editor
        content = self.store.weights(rows[0].maker) if rows else None
        patch = editor.empty() if content is None else unpacked(editor, content)
        roll = ListedRoll(tuple(row.edit for row in rows))
        queries = {row.edit.id: kept_query(self.store, row) for row in rows}
        pool = replace(self.empty, patch=patch, roll=roll, queries=queries)
        return self._whole(pool, rows, version)

    def _whole(self, pool: Pool, rows: Sequence[Kept], version: int) -> "State":
        """The state of a pool whose edits are listed, given them as the store keeps them."""
        numbers = torch.tensor([row.number for row in rows], dtype=torch.long)
        makers = torch.tensor([row.maker for row in rows], dtype=torch.long)
        held = numbers[[row.edit.held for row in rows]]
        return State(pool, numbers, held, makers, version, self._row)

    def _opens(self, maker: int) -> bool:
        """Whether the edits of a maker can be opened; else warn.

        So an editor that is missing here stops neither the answers of a process that is running nor
        its reading of other edits; :meth:`change` refuses to go on without that editor.
        """
        try:
            self.makers.editor(maker)
        except Mismatch as error:
            warnings.warn(f"some edits do not act: {error}", stacklevel=2)
            return False
        return True

    def _patch(
        self, state: "State", stays: Tensor, made: Sequence[Made], makers: Tensor
    ) -> BankPatch:
        """The patch of the edits of a state that stay and of those that were made since.

        ``makers`` (E,) are the makers of all of them. What is known is not read again.
        """
        own = cast("BankEditor", self.empty.editor)
        known: list[int] = makers.unique().tolist()  # type: ignore[no-untyped-call]
        by_maker = {maker: cast("BankEditor", self.makers.editor(maker)) for maker in known}
        others = dict.fromkeys(each for each in by_maker.values() if each is not own)
        editors = [own, *others]
        parts = [self._part(state, stays, made, by_maker, editor) for editor in editors]
        if not others:
            return parts[0]
        numbers = torch.zeros_like(makers)
        for maker, editor in by_maker.items():
            numbers[makers == maker] = editors.index(editor)
        mixed = MixedEditor(editors)
        return mixed.of_parts(parts, numbers)

    def _part(
        self,
        state: "State",
        stays: Tensor,
        made: Sequence[Made],
        by_maker: Mapping[int, BankEditor],
        editor: BankEditor,
    ) -> BankPatch:
        """The patch of the edits that one editor made, without a ledger."""
        part, places = _held_by(_bank_patch(state), editor)
        rows = self._rows_of(part)
        bank = rows.settled(part, state.numbers[places]).bank
        stays = stays[places]
        if not bool(stays.all()):
            bank = bank.select(stays)
        new = [number for number, maker, _ in made if by_maker[maker] is editor]
        if new:
            bank = rows.extended(bank, new)
        texts: list[str] = []
        if part.readable:  # the others keep none, and reading them passes over all keys
            texts = [*compress(part.texts, stays.tolist()), *self.store.texts(new)]
        made_again: BankPatch = editor.from_rows(bank, texts)
        return made_again

    def queries(self, edits: Sequence[Edit]) -> Iterator[tuple[Edit, Query]]:
        """Edits with their queries, as far as their images are kept; read one by one."""
        rows = {row.edit.id: row for row in self.store.by_id([edit.id for edit in edits])}
        for edit in edits:
            row = rows.get(edit.id)
            if row and (row.pictures or not edit.image):
                yield edit, kept_query(self.store, row)

    # Writing

    def _write(self, change: Change, state: "State", pool: Pool, images: Images) -> "State | None":
        """Keep a changed pool; return the state that it becomes, if it need not be read anew."""
        makers = {
            editor.fingerprint: self.makers.keep(change, editor) for editor in pool.editor.editors
        }
        if isinstance(pool.roll, StoredRoll):
            return self._write_news(change, state, pool, makers, images)
        return self._write_whole(change, state, pool, makers, images)

    def _write_news(
        self,
        change: Change,
        state: "State",
        pool: Pool,
        makers: Mapping[str, int],
        images: Images,
    ) -> "State":
        """Keep what is new in a pool, and what is no longer in it."""
        roll = cast("StoredRoll", pool.roll)
        stays = torch.isin(state.numbers, roll.numbers)
        change.forget(state.numbers[~stays].tolist())
        rows = [
            self._add(change, pool, index, edit, makers, images)
            for index, edit in enumerate(roll.new, len(roll.numbers))
        ]
        new = torch.tensor([row.number for row in rows]).long()
        numbers = torch.cat([roll.numbers, new])
        self._sketch_new(change, pool.patch, numbers, len(rows))
        made_by = torch.cat([state.makers[stays], torch.tensor([row.maker for row in rows]).long()])
        named = {row.number: row.edit.conflicts for row in rows if row.edit.conflicts}
        in_conflict = {**state.in_conflict, **change.numbered(named)}
        kept = StoredRoll(self.store, numbers, change.version)
        made = replace(pool, roll=kept)
        return State(made, numbers, numbers, made_by, change.version, self._row, in_conflict)

    def _sketch_new(self, change: Change, patch: Patch, numbers: Tensor, new: int) -> None:
        """Keep the sketches of the last edits of a patch, ``new`` in number."""
        assert isinstance(patch, BankPatch)
        if not new:
            return
        part, row = patch.row(len(patch) - 1)
        places = range(row + 1 - new, row + 1)
        named = dict(zip(places, numbers[-new:].tolist(), strict=True))
        self._rows_of(part).sketch_new(change, part.bank, named)

    def _write_whole(
        self,
        change: Change,
        state: "State",
        pool: Pool,
        makers: Mapping[str, int],
        images: Images,
    ) -> "State | None":
        """Keep a pool whose edits are listed: those of a folder, or of weights that hold all.

        ``None`` stands for a state that is to be read anew, in the store's order.
        """
        kept = {row.edit.id: row for row in self.store.by_number(state.numbers.tolist())}
        wanted = {edit.id for edit in pool.edits}
        change.forget([row.number for id, row in kept.items() if id not in wanted])
        rows = []
        for index, edit in enumerate(pool.edits):
            row = kept.get(edit.id)
            if row is None:
                row = self._add(change, pool, index, edit, makers, images)
            elif row.edit != edit:
                change.update(row.number, edit)
            rows.append(row)
        if isinstance(pool.patch, BankPatch):
            return None
        change.set_weights(makers[pool.editor.fingerprint], packed(pool.patch))
        settled = [replace(row, edit=edit) for row, edit in zip(rows, pool.edits, strict=True)]
        return self._whole(pool, settled, change.version)

    def _add(
        self,
        change: Change,
        pool: Pool,
        index: int,
        edit: Edit,
        makers: Mapping[str, int],
        images: Images,
    ) -> Kept:
        """Add the edit at ``index`` of a pool; ``makers`` are their numbers by fingerprint."""
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
            makers[pool.editor.editor_of(patch, index).fingerprint],
            keys=keys,
            factors=factors,
            text=text,
            images=files,
            thumbnail=thumbnail(files[0]) if files else b"",
        )


@dataclass(frozen=True, eq=False)
class State:
    """The store as it was last read.

    Arguments:
        pool: The pool.
        numbers: The numbers (E,) of its edits in the store, in the same order.
        held: The numbers of those that the patch holds, in its order.
        makers: The numbers (E,) of the makers of the edits.
        version: The version of the store.
        row: Reads an edit by its number, as the store keeps it.
        in_conflict: By the number of an edit, those of earlier ones that it is in conflict with.
    """

    pool: Pool
    numbers: Tensor
    held: Tensor
    makers: Tensor
    version: int
    row: Callable[[int], Kept]
    in_conflict: Mapping[int, Sequence[int]] = field(default_factory=dict)


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


def _column(made: Sequence[Made], column: int) -> Tensor:
    """One of the columns of new edits, (n,)."""
    return torch.tensor([row[column] for row in made], dtype=torch.long)


def _parts(patch: BankPatch) -> list[tuple[BankPatch, Tensor]]:
    """The patches of single editors in a patch, with the places of their edits."""
    if isinstance(patch, MixedPatch):
        return list(zip(patch.parts, patch.places, strict=True))
    return [(patch, torch.arange(len(patch)))]


def _held_by(patch: BankPatch, editor: BankEditor) -> tuple[BankPatch, Tensor]:
    """The patch of the edits that an editor made, with their places among all."""
    for part, places in _parts(patch):
        if part.editor is editor:
            return part, places
    return editor.empty(), torch.empty(0, dtype=torch.long)


def _bank_patch(state: "State") -> BankPatch:
    """The patch of a state, of a method with a bank."""
    patch = state.pool.patch
    assert isinstance(patch, BankPatch)
    return patch


def _ledger(
    state: "State",
    stays: Tensor,
    made: Sequence[Made],
    numbers: Tensor,
    in_conflict: Mapping[int, Sequence[int]],
) -> Bank:
    """The ledger of the edits of a state that stay and of those that were made since.

    ``numbers`` (E,) are those of all of them. Which overrule which is found anew where some went.
    """
    former = _bank_patch(state).ledger
    width = former["overrules"].shape[1]
    rows = ledger_rows([asked for _, _, asked in made], width)
    changed = [number for number, _, _ in made if number in in_conflict]
    if bool(stays.all()):
        ledger = former.append(rows)
    else:
        left = Bank(ledger_rows(former["asked"][stays].tolist(), width))
        ledger = left.append(rows)
        changed = list(in_conflict)
    overruling = {}
    for number in changed:
        place = places_of(numbers, [number])
        others = places_of(numbers, in_conflict[number])
        if place and others:
            overruling[place[0]] = others
    return ledger_overruling(ledger, overruling) if overruling else ledger


def places_of(numbers: Tensor, wanted: Sequence[int]) -> list[int]:
    """The places of some numbers among ascending ``numbers`` (E,), as far as they are there."""
    given = torch.tensor(wanted, dtype=torch.long)
    places = torch.searchsorted(numbers, given)
    found = places < len(numbers)
    found[found.clone()] = numbers[places[found]] == given[found]
    return places[found].tolist()


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
