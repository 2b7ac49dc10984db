"""Entries: the edits of a store as they are listed, searched and paged, with state and hits."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy import ColumnElement, Row, Select, func, or_, select

from liveedit.store import schema
from liveedit.store.edit import Edit
from liveedit.store.store import Kept, Store, kept_row

__all__ = ["STATES", "Entry", "State", "count_entries", "entries", "entry"]

State = Literal["in_force", "superseded", "taken_back"]
STATES: tuple[State, ...] = ("in_force", "superseded", "taken_back")


@dataclass(frozen=True, slots=True)
class Entry:
    """An edit of a store as it is listed.

    Arguments:
        row: The edit as the store keeps it, with ``superseded_by``.
        hits: How often it fired.
    """

    row: Kept
    hits: int

    @property
    def edit(self) -> Edit:
        """The edit."""
        return self.row.edit

    @property
    def state(self) -> State:
        """Whether the edit is in force, superseded by a later one, or taken back."""
        if self.row.forgotten_in is not None:
            return "taken_back"
        return "superseded" if self.edit.superseded_by else "in_force"

    def as_json(self) -> dict[str, Any]:
        """The entry as commands and the server print it."""
        edit = self.edit
        return {
            "id": edit.id,
            "question": edit.prompt,
            "answer": edit.target,
            "names": list(edit.names),
            "who": edit.who,
            "why": edit.why,
            "made": edit.time,
            "took": edit.took,
            "state": self.state,
            "superseded_by": edit.superseded_by or None,
            "overrules": list(edit.conflicts),
            "hits": self.hits,
        }


_edits = schema.edits
_later = schema.edits.alias()
_SUPERSEDING: ColumnElement[Any] = (
    select(_later.c.id)
    .where(
        _later.c.asked == _edits.c.asked,
        _later.c.number > _edits.c.number,
        _later.c.forgotten_in.is_(None),
    )
    .order_by(_later.c.number.desc())
    .limit(1)
    .scalar_subquery()
)
"""Id of the last edit of the same question, if it is a later one."""
_HITS: ColumnElement[Any] = (
    select(func.count()).where(schema.hits.c.edit == _edits.c.number).scalar_subquery()
)
_CONDITIONS: dict[State, list[ColumnElement[bool]]] = {
    "in_force": [_edits.c.forgotten_in.is_(None), _SUPERSEDING.is_(None)],
    "superseded": [_edits.c.forgotten_in.is_(None), _SUPERSEDING.is_not(None)],
    "taken_back": [_edits.c.forgotten_in.is_not(None)],
}


def entries(
    store: Store,
    state: State | None = None,
    search: str = "",
    before: str = "",
    limit: int | None = None,
) -> list[Entry]:
    """Edits, the newest first: those of a state whose texts contain ``search``.

    ``before`` is the id of an edit: only older ones are listed. Raises :class:`BadInput` for an
    unknown id.
    """
    query = _chosen(_entries(), state, search)
    if before:
        query = query.where(_edits.c.number < store.find(before).number)
    query = query.order_by(_edits.c.number.desc()).limit(limit)
    with store.reading() as connection:
        return list(_read(connection.execute(query)))


def entry(store: Store, id: str) -> Entry:
    """The entry of an edit. Raises :class:`BadInput` as :meth:`Store.find` does."""
    number = store.find(id).number
    query = _entries()
    with store.reading() as connection:
        [found] = _read(connection.execute(query.where(_edits.c.number == number)))
    return found


def count_entries(store: Store, state: State | None = None, search: str = "") -> int:
    """The number of edits that :func:`entries` would list."""
    query = _chosen(select(func.count()).select_from(_edits), state, search)
    with store.reading() as connection:
        return connection.execute(query).scalar() or 0


def _entries() -> Select[Any]:
    """The query for all edits with the id of the one that superseded them, and their hits."""
    return select(_edits, _SUPERSEDING.label("superseding"), _HITS.label("hits"))


def _chosen(query: Select[Any], state: State | None, search: str) -> Select[Any]:
    """The query for the edits of a state whose texts contain ``search``."""
    if state is not None:
        query = query.where(*_CONDITIONS[state])
    if search:
        columns = (_edits.c.id, _edits.c.question, _edits.c.answer, _edits.c.who, _edits.c.why)
        query = query.where(or_(*(text.icontains(search, autoescape=True) for text in columns)))
    return query


def _read(rows: Iterable[Row[Any]]) -> Iterator[Entry]:
    """The entries of a query's rows."""
    for row in rows:
        kept = kept_row(row)
        superseding = "" if kept.forgotten_in is not None else row.superseding or ""
        edit = replace(kept.edit, superseded_by=superseding)
        yield Entry(replace(kept, edit=edit), row.hits)
