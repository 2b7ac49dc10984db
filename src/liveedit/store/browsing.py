"""Pages through the edits of a store, whatever their number, and tells what happened to one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy import ColumnElement, Row, Select, and_, exists, func, or_, select

from liveedit.store import schema
from liveedit.store.store import Kept, Store, kept_row

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
    """Something that happened to an edit.

    Arguments:
        time: When.
        kind: "made", "superseded", "restored" or "taken_back".
        who: Who did it.
        by: Id of the edit that superseded it; empty for other events.
    """

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
    ``after`` is the id of the last edit of the page before. With ``at`` the edits are those of this
    version of the store, in the states that they had then; the rest of what is said is of now.
    """
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
    """The events of an edit, in order: it was made, superseded, restored, taken back."""
    known = [(kept.made_in, "made", ""), *_superseded(store, kept)]
    end = kept.forgotten_in
    if end is not None:
        known = [event for event in known if event[0] <= end] + [(end, "taken_back", "")]
    changes = schema.changes
    wanted = select(changes).where(changes.c.version.in_([version for version, _, _ in known]))
    with store.reading() as connection:
        rows = {row.version: row for row in connection.execute(wanted)}
    known.sort(key=lambda event: event[0])
    return [Event(rows[at].time, kind, rows[at].who, by) for at, kind, by in known]


def _superseded(store: Store, kept: Kept) -> Iterator[tuple[int, str, str]]:
    """The versions in which later edits superseded an edit, or were taken back and restored it."""
    later = and_(EDITS.c.asked == kept.edit.number, EDITS.c.number > kept.number)
    query = select(EDITS.c.id, EDITS.c.made_in, EDITS.c.forgotten_in).where(later)
    with store.reading() as connection:
        others = list(connection.execute(query.order_by(EDITS.c.number)))
    for other in others:
        yield other.made_in, "superseded", other.id
    for end in {other.forgotten_in for other in others if other.forgotten_in is not None}:
        alive = (
            other.forgotten_in is None or other.forgotten_in > end
            for other in others
            if other.made_in <= end
        )
        if not any(alive):
            yield end, "restored", ""


def _kept_at(edits: Any, at: int | None) -> ColumnElement[bool]:
    """Whether an edit was not taken back at a version, by default now."""
    present: ColumnElement[bool] = edits.c.forgotten_in.is_(None)
    return present if at is None else or_(present, edits.c.forgotten_in > at)


def _superseding(at: int | None) -> Any:
    """Whether another edit in force is a later one of the same question."""
    return and_(
        LATER.c.asked == EDITS.c.asked,
        LATER.c.number > EDITS.c.number,
        *([] if at is None else [LATER.c.made_in <= at]),
        _kept_at(LATER, at),
    )


def _conditions(
    state: State | None, search: str, at: int | None = None
) -> list[ColumnElement[bool]]:
    """The conditions on an edit in this state that matches a search."""
    found: list[ColumnElement[bool]] = [] if at is None else [EDITS.c.made_in <= at]
    if state == "taken_back":
        found.append(~_kept_at(EDITS, at))
    elif state is not None:
        superseded = exists().where(_superseding(at))
        found.append(_kept_at(EDITS, at))
        found.append(superseded if state == "superseded" else ~superseded)
    if search:
        texts = [EDITS.c[name] for name in ("question", "answer", "why", "who", "id")]
        found.append(or_(*(text.icontains(search, autoescape=True) for text in texts)))
    return found


def _listing(at: int | None = None) -> Select[Any]:
    """The query for edits with all that listings say of them."""
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
    """A row of :func:`_listing`."""
    kept = kept_row(row)
    if at is not None and kept.forgotten_in is not None and kept.forgotten_in > at:
        kept = replace(kept, forgotten_in=None)
    superseded_by = row.superseded_by if kept.forgotten_in is None else None
    return Listed(kept, row.editor, superseded_by or "", row.hits, bool(row.thumbnail))
