"""Exchange: edits of one store as a file, and into another store.

A file is one safetensors file: the tensors of the edits, stacked, their images, and in its metadata
the listing of edits and makers. What is there already, by its id, is left as it is.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from liveedit.artifacts import check_new, read_tensors, write_tensors
from liveedit.errors import BadInput
from liveedit.store.edit import Edit
from liveedit.store.makers import check_together
from liveedit.store.store import Change, Kept, Maker, Store
from liveedit.store.tensors import Layout
from liveedit.types import expanded

__all__ = ["export", "import_edits", "merge"]

FORMAT = "edits-1"
Row = TypeVar("Row")
BATCH = 200
"""Edits that are in memory at a time while they go from one store into another."""


@dataclass(frozen=True, slots=True)
class Content:
    """All that a store keeps of an edit.

    Arguments:
        maker: The editor and the model that made it.
        edit: The edit.
        keys: Its keys, as bytes.
        factors: Its factors, as bytes.
        text: What its patch keeps of it as text.
        images: Its images, as files.
        thumbnail: Its thumbnail, or nothing.
        learned: What its editor has learned, or nothing.
    """

    maker: Maker
    edit: Edit
    keys: bytes
    factors: bytes
    text: str
    images: tuple[bytes, ...]
    thumbnail: bytes
    learned: bytes


def export(store: Store, file: str | Path, ids: Sequence[str] | None = None) -> int:
    """Write edits, by default all that are not taken back, to a new file; return their number.

    ``ids`` are ids or unique beginnings of them. Raises :class:`BadInput` for an unknown id, an
    existing file, and edits of a method whose weights hold all of them together.
    """
    check_new(file, "file")
    chosen = store.kept() if ids is None else [store.find(id) for id in ids]
    contents: list[Content] = []
    for part in _batches(chosen):
        contents += _read(store, part)
    tensors: dict[str, Tensor] = {}
    for number, content in enumerate(contents):
        for name, value in (("keys", content.keys), ("factors", content.factors)):
            tensors[f"{number}.{name}"] = _bytes(value)
        for position, image in enumerate(content.images):
            tensors[f"{number}.image.{position}"] = _bytes(image)
        tensors[f"{number}.thumbnail"] = _bytes(content.thumbnail)
    makers = {content.maker.number: content.maker for content in contents}
    for content in contents:
        tensors[f"learned.{content.maker.number}"] = _bytes(content.learned)
    listing = {
        "format": FORMAT,
        "makers": {number: _maker_json(maker) for number, maker in makers.items()},
        "edits": [
            asdict(content.edit) | {"maker": content.maker.number, "text": content.text}
            for content in contents
        ],
    }
    write_tensors(Path(file), tensors, {"listing": json.dumps(listing, ensure_ascii=False)})
    return len(contents)


def import_edits(
    store: Store,
    file: str | Path,
    who: str = "",
    check: Callable[[Maker], object] | None = None,
) -> int:
    """Add the edits of a file that are not in the store, all or none; return their number.

    Raises :class:`BadInput` for a damaged file and for any other, :class:`Mismatch` for edits that
    cannot be beside those of the store (:func:`check_together`), and what ``check`` raises for the
    maker of some of the file's edits.
    """
    contents = {content.edit.id: content for content in _listed(file)}
    makers = {id: content.maker for id, content in contents.items()}
    if check is not None:
        for maker in {maker.number: maker for maker in makers.values()}.values():
            check(maker)
    return _take_in(store, file, makers, lambda ids: [contents[id] for id in ids], who)


def merge(store: Store, other: Store, who: str = "") -> int:
    """Add the edits of another store that are not in this one, all or none; return their number.

    Raises :class:`BadInput` for damaged edits and for those of a method whose weights hold all of
    them together, and :class:`Mismatch` as :func:`import_edits`.
    """
    rows = {row.edit.id: row for row in other.kept()}
    known = {maker.number: maker for maker in other.makers()}
    makers = {id: known[row.maker] for id, row in rows.items()}
    return _take_in(store, other, makers, lambda ids: _read(other, [rows[id] for id in ids]), who)


def _listed(file: str | Path) -> list[Content]:
    """The edits in a file. Raises :class:`BadInput` for a damaged file and for any other."""
    if expanded(file).is_dir():
        raise BadInput(
            f"{file} is a folder: `liveedit edits --store {file}` imports its edits once"
        )
    tensors, metadata = read_tensors(Path(file))
    try:
        listing = json.loads(metadata["listing"])
        _check_format(listing)
        makers = {
            int(number): _maker(int(number), row) for number, row in listing["makers"].items()
        }
        learned = {number: _learned(tensors, number) for number in makers}
        return [
            _content(makers, learned, tensors, number, dict(row))
            for number, row in enumerate(listing["edits"])
        ]
    except (LookupError, ValueError, TypeError):
        raise BadInput(
            f"{file} is no file of exported edits, or damaged: export the edits again"
        ) from None


def _read(store: Store, rows: Sequence[Kept]) -> Iterator[Content]:
    """All that a store keeps of edits."""
    makers = {maker.number: maker for maker in store.makers()}
    learned = {number: store.weights(number) or b"" for number in {row.maker for row in rows}}
    _check_single(makers[number] for number in learned)
    numbers = [row.number for row in rows]
    keys = store.rows(numbers, "keys")
    factors = store.rows(numbers, "factors")
    texts = store.texts(numbers)
    for row, key, factor, text in zip(rows, keys, factors, texts, strict=True):
        yield Content(
            makers[row.maker],
            row.edit,
            key,
            factor,
            text,
            tuple(store.images(row.number)),
            store.thumbnail(row.number) or b"",
            learned[row.maker],
        )


def _check_single(makers: Iterable[Maker]) -> None:
    """Raise :class:`BadInput` for a method whose weights hold all edits together."""
    for maker in makers:
        if not maker.layout.columns:
            raise BadInput(
                f"{maker.editor} holds all edits in its weights: single edits cannot "
                "be moved, make them again in the other store"
            )


def _take_in(
    store: Store,
    where: object,
    makers: Mapping[str, Maker],
    read: Callable[[Sequence[str]], Iterable[Content]],
    who: str,
) -> int:
    """Add what is not in the store, in one change; return the number of edits.

    ``makers`` has the maker of each edit that is kept ``where``, by the edit's id, and ``read``
    gives edits by their ids.
    """
    if not _new(store, where, makers):
        return 0
    with store.change("import", who) as change:
        new = _new(store, where, makers)  # another process may have been faster
        for some in _batches(new):
            for content in read(some):
                _add(change, content)
    return len(new)


def _new(store: Store, where: object, makers: Mapping[str, Maker]) -> list[str]:
    """The ids that are not in the store. Raises an error if their edits cannot be added."""
    known = store.ids()
    new = [id for id in makers if id not in known]
    distinct = list({makers[id].identity: makers[id] for id in new}.values())
    _check_single(distinct)
    check_together(distinct, where, store)
    return new


def _add(change: Change, content: Content) -> None:
    """Add an edit, with its maker and what that has learned."""
    maker = change.maker(replace(content.maker, number=0)).number
    if content.learned and not change.has_weights(maker):
        change.set_weights(maker, content.learned)
    change.add(
        content.edit,
        maker,
        keys=content.keys,
        factors=content.factors,
        text=content.text,
        images=content.images,
        thumbnail=content.thumbnail,
    )


def _check_format(listing: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for a listing of another form."""
    if listing["format"] != FORMAT:
        raise ValueError(listing["format"])


def _learned(tensors: Mapping[str, Tensor], maker: int) -> bytes:
    """The bytes that the editor of a maker has learned, which files of former versions lack."""
    found = tensors.get(f"learned.{maker}")
    return b"" if found is None else found.numpy().tobytes()


def _content(
    makers: Mapping[int, Maker],
    learned: Mapping[int, bytes],
    tensors: Mapping[str, Tensor],
    number: int,
    row: dict[str, Any],
) -> Content:
    """An edit of a file."""
    made_by = row.pop("maker")
    maker = makers[made_by]
    text = row.pop("text")
    edit = Edit(**row | {"names": tuple(row["names"]), "conflicts": tuple(row["conflicts"])})
    keys, factors, thumbnail = (
        tensors[f"{number}.{name}"].numpy().tobytes() for name in ("keys", "factors", "thumbnail")
    )
    sizes = (maker.layout.part(False).size, maker.layout.part(True).size)
    if (len(keys), len(factors)) != sizes:
        raise ValueError(number)
    images: list[bytes] = []
    while f"{number}.image.{len(images)}" in tensors:
        images.append(tensors[f"{number}.image.{len(images)}"].numpy().tobytes())
    return Content(maker, edit, keys, factors, text, tuple(images), thumbnail, learned[made_by])


def _maker_json(maker: Maker) -> dict[str, Any]:
    """A maker as JSON."""
    return {
        "editor": maker.editor,
        "editor_fingerprint": maker.editor_fingerprint,
        "model_fingerprint": maker.model_fingerprint,
        "opens_with": dict(maker.opens_with),
        "layout": maker.layout.to_json(),
    }


def _maker(number: int, row: Mapping[str, Any]) -> Maker:
    """The maker of this number that :func:`_maker_json` wrote."""
    return Maker(**{**row, "layout": Layout.from_json(row["layout"]), "number": number})


def _bytes(content: bytes) -> Tensor:
    """Bytes as a tensor (n,)."""
    return (
        torch.frombuffer(bytearray(content), dtype=torch.uint8)
        if content
        else torch.empty(0, dtype=torch.uint8)
    )


def _batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """The rows in parts."""
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]
