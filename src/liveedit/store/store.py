"""Store: keeps edits durably, for any number of processes and threads.

A change is one transaction (:class:`Change`): it is kept whole, or nothing of it is. Nothing that
was kept is removed: an edit that is taken back stays on record, and each past state can be read.
Readers see a change as soon as it is kept; :attr:`Store.version` tells whether there is one.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    Text,
    and_,
    case,
    cast,
    func,
    insert,
    or_,
    select,
    true,
    update,
)

from liveedit.errors import BadInput
from liveedit.store import schema
from liveedit.store.database import Database, blank, store_url
from liveedit.store.edit import Edit, history
from liveedit.store.tensors import Layout, checksum
from liveedit.types import check_text

__all__ = [
    "HITS",
    "NUL",
    "Basis",
    "Change",
    "Hit",
    "Kept",
    "Maker",
    "News",
    "Store",
    "check_version",
    "kept_row",
    "now",
]

V = TypeVar("V")
BATCH = 500
"""Rows that one statement reads by their numbers; databases limit its length."""
PIECE = 1 << 24
"""Bytes of one row of weights."""
NUL = "\0"
"""A character that no text in PostgreSQL has, so that it refuses a search for it."""
HITS = 1000
"""Hits of an edit that compacting a store leaves, the newest."""


def now() -> str:
    """The present time in ISO format."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True, slots=True)
class Maker:
    """An editor on a model, which made some of the edits.

    Arguments:
        editor: Name of the method.
        editor_fingerprint: Fingerprint of the editor.
        model_fingerprint: Fingerprint of the model.
        opens_with: Known arguments of :func:`liveedit.load`.
        layout: The tensors of each of its edits; empty for a method whose weights hold all edits.
        number: Its number in the store.
    """

    editor: str
    editor_fingerprint: str
    model_fingerprint: str
    opens_with: Mapping[str, str] = field(default_factory=dict)
    layout: Layout = field(default_factory=lambda: Layout(()))
    number: int = 0

    @property
    def identity(self) -> tuple[str, str]:
        """The fingerprints, by which makers are told apart."""
        return self.editor_fingerprint, self.model_fingerprint


@dataclass(frozen=True, slots=True)
class Kept:
    """An edit as the store keeps it, without tensors and images.

    Arguments:
        number: Its number: edits are counted in the order in which they were made.
        maker: Number of its maker.
        edit: The edit.
        made_in: Version of the store in which it was made.
        pictures: Number of its images that are kept.
        forgotten_in: Version in which it was taken back; ``None`` while it is not.
    """

    number: int
    maker: int
    edit: Edit
    made_in: int
    pictures: int = 0
    forgotten_in: int | None = None


@dataclass(frozen=True, slots=True)
class Basis:
    """The directions of sketches.

    Arguments:
        number: Its number.
        learned_from: The number of edits that there were when it was learned.
        content: Its tensors.
    """

    number: int
    learned_from: int
    content: bytes


@dataclass(frozen=True, slots=True)
class News:
    """The edits that were made or taken back between two versions of a store.

    Arguments:
        version: The later version.
        made: Number, maker and question number of each edit that was made and not taken back since.
        gone: Numbers of the edits that were taken back.
        in_conflict: By the number of an edit, the numbers of earlier ones that it is in conflict
            with.
    """

    version: int
    made: Sequence[tuple[int, int, int]] = ()
    gone: Sequence[int] = ()
    in_conflict: Mapping[int, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hit:
    """One firing of an edit.

    Arguments:
        edit: Number of the edit.
        weight: Its weight.
        time: When it fired, in ISO format.
        request: Id of the request, if there is one.
    """

    edit: int
    weight: float
    time: str
    request: str = ""


class Store:
    """The edits in a database; see :func:`liveedit.store.database.store_url` for ``where``.

    A missing store is empty, and its first change creates it, unless ``create`` is false. Raises
    :class:`BadInput` where there is none or something else is in its place, :class:`Mismatch` for a
    newer version's store, and :class:`StorageError` where the database cannot be used; so does
    every method.
    """

    def __init__(
        self, where: str | Path, *, create: bool = True, database: Database | None = None
    ) -> None:
        self.database = Database(store_url(where)) if database is None else database
        self._exists = False
        try:
            self._open(where, create)
        except BaseException:
            self.close()
            raise

    def _open(self, where: str | Path, create: bool) -> None:
        """Bring tables of an earlier version up to date, or check that a store can be made."""
        if not self.database.exists():
            if not create:
                raise BadInput(
                    f"no edits in {where}: check the path, or make one with `liveedit edit`"
                )
            self.database.check_place()
        elif not self.exists:
            self.database.migrate()

    @property
    def exists(self) -> bool:
        """Whether the database holds the tables of this version."""
        if not self._exists:
            self._exists = self.database.exists() and self.database.check_revision()
        return self._exists

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state; of a store that does not exist yet, an empty one."""
        with self.database.reading() if self.exists else blank() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that no other writer interleaves with; creates the tables if need be."""
        if not self.exists:
            self.database.create()
        with self.database.writing() as connection:
            yield connection

    def __str__(self) -> str:
        return str(self.database)

    def close(self) -> None:
        """Close the connections."""
        self.database.close()

    # Reading

    @property
    def version(self) -> int:
        """The number of the newest change; 0 before the first."""
        with self.reading() as connection:
            return _version(connection)

    def version_at(self, time: datetime) -> int:
        """The number of the newest change at a time; without a zone it is local time.

        Raises :class:`BadInput` for anything but a :class:`datetime.datetime`.
        """
        if not isinstance(time, datetime):
            raise BadInput(f"a time is a datetime, not {type(time).__name__}: give one")
        stamp = time.astimezone(UTC).isoformat(timespec="microseconds")
        query = select(func.max(schema.changes.c.version)).where(schema.changes.c.time <= stamp)
        with self.reading() as connection:
            return connection.execute(query).scalar() or 0

    def makers(self) -> list[Maker]:
        """All makers, in the order of their first edits."""
        with self.reading() as connection:
            return _makers(connection)

    def makers_of_edits(self) -> list[Maker]:
        """The makers of the edits that are not taken back."""
        table = schema.edits
        query = select(table.c.maker).where(table.c.forgotten_in.is_(None)).distinct()
        with self.reading() as connection:
            numbers = set(connection.execute(query).scalars())
            return [maker for maker in _makers(connection) if maker.number in numbers]

    def newest_maker(self) -> Maker | None:
        """The maker of the newest edit that is not taken back."""
        return self._maker_of_newest(schema.edits.c.forgotten_in.is_(None))

    def remembered(self) -> Maker | None:
        """The :meth:`newest_maker` or, where all edits are taken back, that of the last one.

        A store opens with it where nothing else is asked for.
        """
        return self.newest_maker() or self._maker_of_newest(true())

    def _maker_of_newest(self, condition: ColumnElement[bool]) -> Maker | None:
        """The maker of the newest edit that meets a condition."""
        table = schema.edits
        query = select(table.c.maker).where(condition).order_by(table.c.number.desc()).limit(1)
        with self.reading() as connection:
            number = connection.execute(query).scalar()
            return next((row for row in _makers(connection) if row.number == number), None)

    def ids_made_by(self, maker: int, limit: int) -> list[str]:
        """Ids of a maker's edits that are not taken back, the first of them."""
        table = schema.edits
        own = and_(table.c.maker == maker, table.c.forgotten_in.is_(None))
        query = select(table.c.id).where(own).order_by(table.c.number).limit(limit)
        with self.reading() as connection:
            return list(connection.execute(query).scalars())

    def kept(self, at: int | None = None) -> list[Kept]:
        """The edits not taken back, oldest first, at version ``at``; by default now.

        Raises :class:`BadInput` for anything but a version.
        """
        check_version(at)
        with self.reading() as connection:
            return _kept(connection, at)

    def edits(self, at: int | None = None) -> list[Edit]:
        """The same edits with ``superseded_by``, and with conflicts among those in force."""
        return list(history([row.edit for row in self.kept(at)]))

    def news(self, version: int) -> "News":
        """The edits that were made or taken back after ``version``, without what is said of them.

        After version 0 those that are not taken back.
        """
        table = schema.edits
        in_conflict = cast(table.c.conflicts, Text)
        query = select(
            table.c.number,
            table.c.maker,
            table.c.asked,
            table.c.forgotten_in,
            case((in_conflict != "[]", in_conflict), else_=None).label("conflicts"),
        ).order_by(table.c.number)
        if version:
            query = query.where(or_(table.c.made_in > version, table.c.forgotten_in > version))
        else:
            query = query.where(table.c.forgotten_in.is_(None))
        with self.reading() as connection:
            present = _version(connection)
            if present == version:  # without a look at the edits
                return News(present)
            rows = connection.execute(query).all()
            made = [row for row in rows if row.forgotten_in is None]
            overruled = {row.number: json.loads(row.conflicts) for row in made if row.conflicts}
            return News(
                present,
                made=[(row.number, row.maker, row.asked) for row in made],
                gone=[row.number for row in rows if row.forgotten_in is not None],
                in_conflict=_numbered(connection, overruled),
            )

    def by_number(self, numbers: Sequence[int]) -> list[Kept]:
        """Edits by their numbers, in the order of these, taken back or not."""
        found = {row.number: row for row in self._where(schema.edits.c.number, numbers)}
        return [found[number] for number in numbers]

    def by_id(self, ids: Iterable[str]) -> list[Kept]:
        """The edits with these ids, taken back or not, oldest first."""
        return self._where(schema.edits.c.id, ids)

    def of_questions(self, numbers: Iterable[int]) -> list[Kept]:
        """The edits of some questions, taken back or not, oldest first."""
        return self._where(schema.edits.c.asked, numbers)

    def _where(self, column: Column[Any], values: Iterable[Any]) -> list[Kept]:
        """The edits with one of some values in a column, oldest first."""
        found: list[Kept] = []
        known = list(values)
        if not known:
            return found
        with self.reading() as connection:
            for some in _batches(known):
                query = select(schema.edits).where(column.in_(some))
                found += [kept_row(row) for row in connection.execute(query)]
        return sorted(found, key=lambda row: row.number)

    def ids(self) -> set[str]:
        """The ids of all edits, of those taken back, too."""
        with self.reading() as connection:
            return set(connection.execute(select(schema.edits.c.id)).scalars())

    def texts_are_whole(self, row: Kept) -> bool:
        """Whether the texts of an edit are those that were kept."""
        query = select(schema.edits.c.checksum).where(schema.edits.c.number == row.number)
        with self.reading() as connection:
            return connection.execute(query).scalar() == _sum(row.edit)

    def find(self, id: str, *, present: bool = False) -> Kept:
        """The edit that an id, or a unique beginning of it, names, taken back or not.

        With ``present`` those taken back are left out. Raises :class:`BadInput` where it names none
        or several, and says so where it names one that is taken back.
        """
        table = schema.edits
        alike = table.c.id.startswith(id, autoescape=True)
        query = select(table).where(alike).order_by(func.length(table.c.id)).limit(2)
        if present:
            query = query.where(table.c.forgotten_in.is_(None))
        with self.reading() as connection:
            found = [] if NUL in id else [kept_row(row) for row in connection.execute(query)]
        if present and id and not found:
            gone = self.find(id)
            raise BadInput(f"edit {gone.edit.id} is taken back already: `edits --all` lists it")
        if not id or not found:
            raise BadInput(f"no edit {id!r}: `edits` lists those in force")
        exact = [row for row in found if row.edit.id == id]
        if len(found) > 1 and not exact:
            ids = ", ".join(row.edit.id for row in found)
            raise BadInput(f"{id!r} may be any of {ids} …: give more of the id")
        return (exact or found)[0]

    def rows(self, numbers: Sequence[int], part: str) -> list[bytes]:
        """The ``part``, "keys" or "factors", of each edit's tensors, in the order of ``numbers``.

        Raises :class:`BadInput` for one that is missing or damaged.
        """
        table = schema.experts
        value = table.c[part]
        checked = table.c[f"{part}_checksum"]
        found: dict[int, bytes] = {}
        with self.reading() as connection:
            for some in _batches(numbers):
                query = select(table.c.edit, value, checked).where(table.c.edit.in_(some))
                for number, content, expected in connection.execute(query):
                    if checksum(content) != expected:
                        raise self.damaged(connection, number, "its tensors are damaged")
                    found[number] = content
            for number in numbers:
                if number not in found:
                    raise self.damaged(connection, number, "its tensors are missing")
        return [found[number] for number in numbers]

    def texts(self, numbers: Sequence[int]) -> list[str]:
        """The texts that the patch keeps of edits, in the order of ``numbers``."""
        table = schema.experts
        found: dict[int, str] = {}
        with self.reading() as connection:
            for some in _batches(numbers):
                query = select(table.c.edit, table.c.text).where(table.c.edit.in_(some))
                found |= {row.edit: row.text for row in connection.execute(query)}
        return [found[number] for number in numbers]

    def damaged(self, connection: Connection, number: int, what: str) -> BadInput:
        """The error for an edit that cannot be read."""
        query = select(schema.edits.c.id).where(schema.edits.c.number == number)
        id = connection.execute(query).scalar()
        return BadInput(
            f"edit {id} in {self} is damaged ({what}): `liveedit forget {id}` and make it again, "
            "or restore the store from a copy"
        )

    def images(self, number: int) -> list[bytes]:
        """The images of an edit, as files, in their order."""
        table = schema.images
        query = select(table.c.content).where(table.c.edit == number).order_by(table.c.position)
        with self.reading() as connection:
            return list(connection.execute(query).scalars())

    def thumbnail(self, number: int) -> bytes | None:
        """The thumbnail of an edit, a JPEG; ``None`` for an edit without image."""
        table = schema.thumbnails
        query = select(table.c.content).where(table.c.edit == number)
        with self.reading() as connection:
            return connection.execute(query).scalar()

    def weights(self, maker: int) -> bytes | None:
        """The weights that hold all edits of a maker or, where each is kept by itself, what its
        editor has learned; ``None`` where there are none.
        """
        table = schema.weights
        query = select(table.c.content).where(table.c.maker == maker).order_by(table.c.part)
        with self.reading() as connection:
            parts = list(connection.execute(query).scalars())
        return b"".join(parts) if parts else None

    def basis(self, editor_fingerprint: str, known: "Basis | None" = None) -> "Basis | None":
        """The newest basis of an editor's edits, if there is one; ``known`` if that is it.

        A damaged one is none: without it keys are read instead of sketches.
        """
        table = schema.bases
        made_by = schema.makers.c.editor_fingerprint == editor_fingerprint
        newest = select(func.max(table.c.number)).join(schema.makers).where(made_by)
        with self.reading() as connection:
            number = connection.execute(newest).scalar()
            if number is None or (known and known.number == number):
                return known
            row = connection.execute(select(table).where(table.c.number == number)).one()
        whole = checksum(row.content) == row.checksum
        return Basis(row.number, row.learned_from, row.content) if whole else None

    def sketches(self, basis: int) -> Sequence[tuple[int, bytes]]:
        """The sketches in a basis, with the numbers of their edits, in their order.

        Damaged ones are left out.
        """
        table = schema.sketches
        query = select(table.c.edit, table.c.content, table.c.checksum)
        with self.reading() as connection:
            rows = connection.execute(query.where(table.c.basis == basis).order_by(table.c.edit))
            return [(edit, content) for edit, content, known in rows if checksum(content) == known]

    # Writing

    @contextmanager
    def change(self, kind: str, who: str = "") -> "Iterator[Change]":
        """A change, kept when the block ends without an error; other writers wait meanwhile.

        Raises :class:`BadInput` for a ``who`` that no database takes.
        """
        check_text("who", who)
        with self.writing() as connection:
            row = {"time": now(), "kind": kind, "who": who}
            yield Change(connection, _inserted(connection, schema.changes, row))

    @contextmanager
    def upkeep(self) -> "Iterator[Change]":
        """A change of what is kept beside the edits; it makes no new version."""
        with self.writing() as connection:
            yield Change(connection, _version(connection))

    def record_hits(self, hits: Sequence[Hit]) -> None:
        """Keep firings of edits."""
        if not hits:
            return
        rows = [
            {"edit": hit.edit, "time": hit.time, "weight": hit.weight, "request": hit.request}
            for hit in hits
        ]
        with self.writing() as connection:
            connection.execute(insert(schema.hits), rows)

    def hits(self, number: int, limit: int = 100) -> list[Hit]:
        """The newest firings of an edit, the newest first."""
        table = schema.hits
        query = select(table).where(table.c.edit == number).order_by(table.c.number.desc())
        with self.reading() as connection:
            return [
                Hit(row.edit, row.weight, row.time, row.request)
                for row in connection.execute(query.limit(limit))
            ]

    def hit_counts(self) -> dict[int, int]:
        """How often each edit fired, by its number; those that never did are left out."""
        table = schema.hits
        query = select(table.c.edit, func.count().label("hits")).group_by(table.c.edit)
        with self.reading() as connection:
            return {row.edit: row.hits for row in connection.execute(query)}


@dataclass(frozen=True, slots=True)
class Change:
    """A change that is being made: the transaction, and the version that it becomes."""

    connection: Connection
    version: int

    @property
    def before(self) -> int:
        """The version that the change starts from."""
        query = select(func.max(schema.changes.c.version)).where(
            schema.changes.c.version < self.version
        )
        return self.connection.execute(query).scalar() or 0

    def maker(self, maker: Maker) -> Maker:
        """The maker with its number; a new one is added."""
        for known in _makers(self.connection):
            if (known.identity, known.layout) == (maker.identity, maker.layout):
                return known
        row = {
            "editor": maker.editor,
            "editor_fingerprint": maker.editor_fingerprint,
            "model_fingerprint": maker.model_fingerprint,
            "opens_with": dict(maker.opens_with),
            "layout": maker.layout.to_json(),
        }
        return replace(maker, number=_inserted(self.connection, schema.makers, row))

    def add(
        self,
        edit: Edit,
        maker: int,
        *,
        keys: bytes = b"",
        factors: bytes = b"",
        text: str = "",
        images: Sequence[bytes] = (),
        thumbnail: bytes = b"",
    ) -> Kept:
        """Add an edit with its tensors and images.

        Raises :class:`BadInput` for texts that no database takes.
        """
        for name in ("prompt", "target", "who", "why"):
            check_text(f"the {name} of an edit", getattr(edit, name))
        values = _values(edit) | {
            "maker": maker,
            "made_in": self.version,
            "pictures": len(images),
        }
        number = _inserted(self.connection, schema.edits, values)
        tensors = {
            "edit": number,
            "keys": keys,
            "factors": factors,
            "text": text,
            "keys_checksum": checksum(keys),
            "factors_checksum": checksum(factors),
        }
        self.connection.execute(insert(schema.experts).values(tensors))
        for position, content in enumerate(images):
            row = {"edit": number, "position": position, "content": content}
            self.connection.execute(insert(schema.images).values(row))
        if thumbnail:
            row = {"edit": number, "content": thumbnail}
            self.connection.execute(insert(schema.thumbnails).values(row))
        return Kept(number, maker, edit, self.version, len(images))

    def numbered(self, ids: Mapping[int, Sequence[str]]) -> dict[int, tuple[int, ...]]:
        """Lists of ids of edits as lists of their numbers."""
        return _numbered(self.connection, ids)

    def update(self, number: int, edit: Edit) -> None:
        """Replace what is said about an edit: whether it took, is held, or is in conflict."""
        table = schema.edits
        self.connection.execute(update(table).where(table.c.number == number).values(_values(edit)))

    def forget(self, numbers: Sequence[int]) -> None:
        """Take edits back; they stay on record."""
        table = schema.edits
        for some in _batches(numbers):
            self.connection.execute(
                update(table)
                .where(and_(table.c.number.in_(some), table.c.forgotten_in.is_(None)))
                .values(forgotten_in=self.version)
            )

    def add_basis(self, maker: int, learned_from: int, content: bytes) -> int:
        """Add a basis for a maker's edits; return its number."""
        row = {
            "maker": maker,
            "learned_from": learned_from,
            "content": content,
            "checksum": checksum(content),
        }
        return _inserted(self.connection, schema.bases, row)

    def set_sketches(self, basis: int, sketches: Mapping[int, bytes]) -> None:
        """Keep sketches of edits, by their numbers, instead of those in an earlier basis."""
        table = schema.sketches
        for some in _batches(sketches):
            self.connection.execute(table.delete().where(table.c.edit.in_(some)))
            rows = []
            for edit in some:
                content = sketches[edit]
                row = {"edit": edit, "basis": basis, "content": content}
                rows.append(row | {"checksum": checksum(content)})
            self.connection.execute(insert(table), rows)

    def has_weights(self, maker: int) -> bool:
        """Whether there are :meth:`Store.weights` of a maker."""
        query = select(schema.weights.c.part).where(schema.weights.c.maker == maker).limit(1)
        return self.connection.execute(query).first() is not None

    def set_weights(self, maker: int, content: bytes) -> None:
        """Replace the :meth:`Store.weights` of a maker."""
        table = schema.weights
        self.connection.execute(table.delete().where(table.c.maker == maker))
        for part, start in enumerate(range(0, len(content), PIECE)):
            row = {"maker": maker, "part": part, "content": content[start : start + PIECE]}
            self.connection.execute(insert(table).values(row))


def check_version(at: object) -> None:
    """Raise :class:`BadInput` for anything but the number of a version, or ``None``."""
    if at is not None and (isinstance(at, bool) or not isinstance(at, int)):
        raise BadInput(
            f"a version of a store is a whole number, not {type(at).__name__}: "
            "`version_at` gives that of a time"
        )


def _numbered(
    connection: Connection, named: Mapping[int, Sequence[str]]
) -> dict[int, tuple[int, ...]]:
    """Lists of ids as lists of the edits' numbers; of those taken back, too."""
    table = schema.edits
    numbers: dict[str, int] = {}
    for some in _batches(sorted(set(chain.from_iterable(named.values())))):
        query = select(table.c.id, table.c.number).where(table.c.id.in_(some))
        numbers |= {row.id: row.number for row in connection.execute(query)}
    return {edit: tuple(numbers[id] for id in ids if id in numbers) for edit, ids in named.items()}


def _inserted(connection: Connection, table: Table, row: Mapping[str, Any]) -> int:
    """Insert a row, and return its number."""
    key = connection.execute(insert(table).values(row)).inserted_primary_key
    assert key is not None
    return int(key[0])


def _version(connection: Connection) -> int:
    """The number of the newest change."""
    return connection.execute(select(func.max(schema.changes.c.version))).scalar() or 0


def _makers(connection: Connection) -> list[Maker]:
    rows = connection.execute(select(schema.makers).order_by(schema.makers.c.number))
    return [
        Maker(
            row.editor,
            row.editor_fingerprint,
            row.model_fingerprint,
            row.opens_with,
            Layout.from_json(row.layout),
            row.number,
        )
        for row in rows
    ]


def _kept_query() -> Select[Any]:
    return select(schema.edits).order_by(schema.edits.c.number)


def _kept(connection: Connection, at: int | None) -> list[Kept]:
    table = schema.edits
    query = _kept_query()
    if at is None:
        query = query.where(table.c.forgotten_in.is_(None))
    else:
        gone = or_(table.c.forgotten_in.is_(None), table.c.forgotten_in > at)
        query = query.where(and_(table.c.made_in <= at, gone))
    return [kept_row(row) for row in connection.execute(query)]


def _values(edit: Edit) -> dict[str, Any]:
    """The columns of an edit."""
    return {
        "id": edit.id,
        "question": edit.prompt,
        "answer": edit.target,
        "image": edit.image,
        "about": edit.about,
        "names": list(edit.names),
        "asked": edit.number,
        "time": edit.time,
        "who": edit.who,
        "why": edit.why,
        "took": edit.took,
        "held": edit.held,
        "conflicts": list(edit.conflicts),
        "checksum": _sum(edit),
    }


def _sum(edit: Edit) -> int:
    """Checksum of an edit's texts."""
    texts = (edit.id, edit.prompt, edit.target, edit.image, edit.time, edit.who, edit.why)
    return checksum("\x1f".join(texts).encode(errors="surrogatepass"))


def kept_row(row: Row[Any]) -> Kept:
    """An edit as a row of the database says."""
    edit = Edit(
        id=row.id,
        prompt=row.question,
        target=row.answer,
        image=row.image,
        time=row.time,
        names=tuple(row.names),
        about=row.about,
        took=row.took,
        conflicts=tuple(row.conflicts),
        held=row.held,
        who=row.who,
        why=row.why,
    )
    return Kept(row.number, row.maker, edit, row.made_in, row.pictures, row.forgotten_in)


def _batches(values: Iterable[V]) -> Iterator[list[V]]:
    """Values in lists of at most :data:`BATCH`."""
    known = list(values)
    for start in range(0, len(known), BATCH):
        yield known[start : start + BATCH]
