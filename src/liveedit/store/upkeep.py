"""Upkeep without a model: check that a store is whole, take edits back, give back their space."""

from collections.abc import Iterable, Iterator
from io import BytesIO

from PIL import Image
from sqlalchemy import Connection, delete, func, select, text

from liveedit.data.images import images_hash, open_image
from liveedit.errors import BadInput
from liveedit.store import schema
from liveedit.store.store import HITS, Kept, Store

__all__ = ["compact", "stand_alone", "take_back", "verify"]


def verify(store: Store) -> list[str]:
    """The damages of a store, one line each; none where it is whole.

    Every edit's texts, tensors and images are read and compared with their checksums.
    """
    found = list(_database(store))
    for row in store.kept():
        found += _damages(store, row)
    return found


def _database(store: Store) -> Iterator[str]:
    """Damages of a SQLite file; PostgreSQL checks its own."""
    if store.database.sqlite:
        with store.reading() as connection:
            for [line] in connection.execute(text("PRAGMA integrity_check")):
                if line != "ok":
                    yield f"{store}: {line}: restore it from a copy"


def _damages(store: Store, row: Kept) -> Iterator[str]:
    """Damages of one edit."""
    if not store.texts_are_whole(row):
        yield f"edit {row.edit.id}: its texts are damaged: restore the store from a copy"
    for part in ("keys", "factors"):
        try:
            store.rows([row.number], part)
        except BadInput as error:
            yield str(error)
    if not _images_are_whole(store, row):
        yield f"edit {row.edit.id}: its images are damaged: restore the store from a copy"


def _images_are_whole(store: Store, row: Kept) -> bool:
    """Whether the images of an edit are those that were kept; a former folder's may lack them."""
    found = store.images(row.number)
    if len(found) != row.pictures:
        return False
    try:
        images = [open_image(Image.open(BytesIO(file))) for file in found]
    except (BadInput, OSError):
        return False
    return not found or images_hash(images) == row.edit.image


def stand_alone(store: Store) -> bool:
    """Whether each edit of the store is kept by itself, not in weights that hold all of them."""
    return all(maker.layout.columns for maker in store.makers_of_edits())


def take_back(store: Store, ids: Iterable[str] | None, who: str = "") -> int:
    """Take edits back that :func:`stand_alone`; return their number.

    They are given by id or by a unique beginning of it, ``None`` is all of them. Neither their
    model nor their editor is needed, and damaged edits can be taken back, too. Raises
    :class:`BadInput` for an id that no edit has, of one that is taken back already, and for a
    beginning that several share; then none is taken back.
    """
    with store.change("forget", who) as change:
        rows = store.kept() if ids is None else [store.find(id, present=True) for id in ids]
        numbers = sorted({row.number for row in rows})
        change.forget(numbers)
    return len(numbers)


def compact(store: Store) -> int:
    """Drop tensors and images of edits that were taken back, and all but the newest hits.

    What is said about the edits stays, so history remains, but they cannot be put back. Returns the
    number of these edits.
    """
    with store.writing() as connection:
        gone = select(schema.edits.c.number).where(schema.edits.c.forgotten_in.is_not(None))
        dropped = connection.execute(
            select(func.count()).where(schema.experts.c.edit.in_(gone))
        ).scalar()
        for table in (schema.experts, schema.sketches, schema.images, schema.thumbnails):
            connection.execute(delete(table).where(table.c.edit.in_(gone)))
        _drop_old_hits(connection)
    if store.database.sqlite:
        store.database.vacuum()
    return dropped or 0


def _drop_old_hits(connection: Connection) -> None:
    """Keep the newest :data:`HITS` of each edit."""
    table = schema.hits
    newest = func.row_number().over(partition_by=table.c.edit, order_by=table.c.number.desc())
    ranked = select(table.c.number, newest.label("place")).subquery()
    old = select(ranked.c.number).where(ranked.c.place > HITS)
    connection.execute(delete(table).where(table.c.number.in_(old)))
