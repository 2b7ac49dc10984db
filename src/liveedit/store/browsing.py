"""Pages through the edits of a store, whatever their number, and tells what happened to one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Row,
    Select,
    and_,
    exists,
    func,
    not_,
    or_,
    select,
    true,
)

from liveedit.store import schema
from liveedit.store.store import NUL, Kept, Store, check_version, kept_row

__all__ = ["Event", "Listed", "State", "in_force", "listed", "page", "story"]

State = Literal["in_force", "superseded", "taken_back"]
"""An edit's state."""

EDITS = schema.edits
LATER = schema.edits.alias()
"""Later edits of the same question."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An edit in a listing.

    Arguments:
        kept: The edit.
        editor: Name of the method that made it.
        superseded_by: Id of the edit that superseded it; empty if none did.
        hits: How often it fired.
        thumbnail: Whether it has a thumbnail.
    """

    kept: Kept
    editor: str
    superseded_by: str
    hits: int
    thumbnail: bool

    @property
    def state(self) -> State:
        """Its state."""
        if self.kept.forgotten_in is not None:
            return "taken_back"
        return "superseded" if self.superseded_by else "in_force"

    def as_json(self) -> dict[str, Any]:
        """The edit as commands and the server tell it."""
        edit = self.kept.edit
        return {
            "id": edit.id,
            "question": edit.prompt,
            "answer": edit.target,
            "names": list(edit.names),
            "who": edit.who,
            "why": edit.why,
            "editor": self.editor,
            "made": edit.time,
            "took": edit.took,
            "state": self.state,
            "superseded_by": self.superseded_by or None,
            "overrules": list(edit.conflicts),
            "hits": self.hits,
        }


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an edit: when, what, who did it, and which edit superseded it."""

    time: str
    kind: str
    who: str
    by: str = ""


def page(
    store: Store,
    *,
    state: State | None = "in_force",
    search: str = "",
    after: str = "",
    limit: int | None = 50,
    at: int | None = None,
) -> tuple[list[Listed], int]:
    """A page of edits, the newest first, and the number of all that match.

    ``state`` ``None`` is all; ``search`` is looked for in question, answer, reason, author and id;
    ``after`` is the id of the last edit of the page before. ``at`` is a version of the store, by
    default the present one (:meth:`Store.version_at`); hits are always those of now.
    """
    check_version(at)
    if NUL in search:
        return [], 0
    wanted = _conditions(state, search, at)
    query = _listing(at).where(*wanted).order_by(EDITS.c.number.desc()).limit(limit)
    if after:
        query = query.where(EDITS.c.number < store.find(after).number)
    count = select(func.count()).select_from(EDITS).where(*wanted)
    with store.reading() as connection:
        rows = [_listed(row, at) for row in connection.execute(query)]
        return rows, connection.execute(count).scalar() or 0


def listed(store: Store, numbers: Sequence[int]) -> list[Listed]:
    """Edits by their numbers, as listings show them, in the order of ``numbers``."""
    query = _listing().where(EDITS.c.number.in_(numbers))
    with store.reading() as connection:
        found = {row.number: _listed(row) for row in connection.execute(query)}
    return [found[number] for number in numbers]


def in_force(store: Store) -> int:
    """How many edits are in force."""
    query = select(func.count()).select_from(EDITS).where(*_conditions("in_force", ""))
    with store.reading() as connection:
        return connection.execute(query).scalar() or 0


def story(store: Store, kept: Kept) -> list[Event]:
    """The events of an edit, in order: it was made, superseded, taken back."""
    changes = schema.changes
    versions = {kept.made_in: "made", kept.forgotten_in: "taken_back"}
    later = select(EDITS.c.made_in, EDITS.c.id).where(
        EDITS.c.asked == kept.edit.number, EDITS.c.number > kept.number
    )
    with store.reading() as connection:
        superseded = {row.made_in: row.id for row in connection.execute(later)}
        known = [*superseded, *(version for version in versions if version)]
        query = select(changes).where(changes.c.version.in_(known)).order_by(changes.c.version)
        return [
            Event(
                row.time,
                versions.get(row.version, "superseded"),
                row.who,
                "" if row.version in versions else superseded[row.version],
            )
            for row in connection.execute(query)
            if kept.forgotten_in is None or row.version <= kept.forgotten_in
        ]


def _made(edits: FromClause, at: int | None) -> ColumnElement[bool]:
    """Whether edits were made by version ``at``."""
    return true() if at is None else edits.c.made_in <= at


def _gone(edits: FromClause, at: int | None) -> ColumnElement[bool]:
    """Whether edits are taken back at version ``at``."""
    taken_back = edits.c.forgotten_in.is_not(None)
    return taken_back if at is None else and_(taken_back, edits.c.forgotten_in <= at)


def _superseding(at: int | None) -> ColumnElement[bool]:
    """Whether another edit in force at version ``at`` is a later one of the same question."""
    return and_(
        LATER.c.asked == EDITS.c.asked,
        LATER.c.number > EDITS.c.number,
        _made(LATER, at),
        not_(_gone(LATER, at)),
    )


def _conditions(
    state: State | None, search: str, at: int | None = None
) -> list[ColumnElement[bool]]:
    """The conditions on an edit in this state at version ``at`` that matches a search."""
    found = [_made(EDITS, at)]
    if state == "taken_back":
        found.append(_gone(EDITS, at))
    elif state is not None:
        superseded = exists().where(_superseding(at))
        found.append(not_(_gone(EDITS, at)))
        found.append(superseded if state == "superseded" else ~superseded)
    if search:
        texts = [EDITS.c[name] for name in ("question", "answer", "why", "who", "id")]
        found.append(or_(*(text.icontains(search, autoescape=True) for text in texts)))
    return found


def _listing(at: int | None = None) -> Select[Any]:
    """The query for edits with all that listings say of them at version ``at``."""
    newest = select(LATER.c.id).where(_superseding(at)).order_by(LATER.c.number.desc()).limit(1)
    hits = select(func.count()).where(schema.hits.c.edit == EDITS.c.number)
    pictured = exists().where(schema.thumbnails.c.edit == EDITS.c.number)
    maker = select(schema.makers.c.editor).where(schema.makers.c.number == EDITS.c.maker)
    return select(
        EDITS,
        maker.scalar_subquery().label("editor"),
        newest.scalar_subquery().label("superseded_by"),
        hits.scalar_subquery().label("hits"),
        pictured.label("thumbnail"),
    )


def _listed(row: Row[Any], at: int | None = None) -> Listed:
    """A row of :func:`_listing`, as it was at version ``at``."""
    kept = kept_row(row)
    if at is not None and kept.forgotten_in is not None and kept.forgotten_in > at:
        kept = replace(kept, forgotten_in=None)
    superseded_by = row.superseded_by if kept.forgotten_in is None else None
    return Listed(kept, row.editor, superseded_by or "", row.hits, bool(row.thumbnail))
