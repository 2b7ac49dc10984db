"""The database of a store: SQLite in one file, or PostgreSQL by URL.

SQLite runs in WAL mode with ``synchronous=FULL``: a committed edit survives a power cut, and
readers never wait for the writer. Its pages have 16 kB, which suits rows of 100 kB. A change is one
transaction, which holds the database's one lock for writers from its first statement on: SQLite's
own, or an advisory lock of PostgreSQL. A killed process releases it.
"""

import errno
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.pool import StaticPool

from liveedit.artifacts import check_open, resolved_path, writing
from liveedit.errors import BadInput, LiveEditError, Mismatch, StorageError
from liveedit.store.schema import APPLICATION, HEAD, metadata

__all__ = ["Database", "blank", "store_url"]

PAGE = 16384
"""Bytes of a page of SQLite."""
PATIENCE = 60.0
"""Seconds that a writer waits for another."""
RETRY = 0.01
"""Seconds after which a new connection is set up again."""
LOCK = 0x4C454454
"""Key of PostgreSQL's advisory lock for writers."""
MAGIC = b"SQLite format 3\0"
HEADER = 100
"""Bytes of the header of a SQLite file."""
MARK = 68
"""Place of the ``application_id`` in it."""


class OpenFiles:
    """The files that this process has open through SQLite, each a store.

    POSIX drops the locks that a process has on a file when it closes any descriptor of it. Another
    process that closes the store would then take itself for the last one and remove the log, and
    edits that are kept afterwards would be lost with it.
    """

    def __init__(self) -> None:
        self._connections: Counter[tuple[int, int]] = Counter()
        self.lock = RLock()
        """Held while such a file is open in another way."""

    def __contains__(self, file: Path) -> bool:
        try:
            return self._connections[_identity(file)] > 0
        except OSError:
            return False

    def add(self, file: Path) -> tuple[int, int]:
        """Note a new connection, before its first statement; return what removes it."""
        with self.lock:
            identity = _identity(file)
            self._connections[identity] += 1
            return identity

    def remove(self, identity: tuple[int, int]) -> None:
        """Note the end of a connection."""
        with self.lock:
            self._connections[identity] -= 1


def _identity(file: Path) -> tuple[int, int]:
    """Device and number of a file."""
    found = file.stat()
    return found.st_dev, found.st_ino


OPEN = OpenFiles()


def store_url(where: str | Path) -> URL:
    """The address of a store: a database URL, or the path of a SQLite file.

    Raises :class:`BadInput` for a database of another sort.
    """
    given = str(where)
    if "://" not in given:
        return URL.create("sqlite", database=str(resolved_path(given)))
    try:
        url = make_url(given)
    except ArgumentError:
        raise BadInput(
            f"'{given}' is no database URL: give sqlite:///FILE, postgresql://…, or a path"
        ) from None
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise BadInput(f"'{given}' names no file: give sqlite:///FILE")
        return url.set(database=str(resolved_path(url.database)))
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    raise BadInput(
        f"a store cannot be in {url.get_backend_name()}: give sqlite:///FILE or postgresql://…"
    )


class Database:
    """Connections to the database of a store.

    ``connect`` replaces the function that opens a connection to a SQLite file, and ``module`` the
    database's DB-API module.
    """

    def __init__(
        self, url: URL, connect: Callable[[], Any] | None = None, module: Any = None
    ) -> None:
        self.url = url
        self.sqlite = url.get_backend_name() == "sqlite"
        options: dict[str, Any] = {} if connect is None else {"creator": connect}
        if module is not None:
            options["module"] = module
        if self.sqlite and connect is None:
            options["connect_args"] = {"timeout": PATIENCE}
        try:
            self.engine: Engine = create_engine(url, pool_pre_ping=not self.sqlite, **options)
        except (ModuleNotFoundError, NoSuchModuleError):
            raise BadInput("PostgreSQL needs psycopg: pip install 'liveedit[postgresql]'") from None
        if self.sqlite:
            event.listen(self.engine, "connect", self._connected)
            event.listen(self.engine, "close", _closed)
            event.listen(self.engine, "begin", _begin)

    def __str__(self) -> str:
        return str(self.url.database) if self.sqlite else self.url.render_as_string()

    @property
    def file(self) -> Path | None:
        """SQLite's file; ``None`` for PostgreSQL."""
        return Path(str(self.url.database)) if self.sqlite else None

    def _connected(self, connection: Any, record: Any) -> None:
        """Note a new connection to SQLite's file, and set it up."""
        assert self.file is not None
        record.info["file"] = OPEN.add(self.file)
        try:
            _prepare_patiently(connection)
        except BaseException:
            connection.close()
            _closed(connection, record)
            raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state and never waits for a writer."""
        with self.errors(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that no other writer interleaves with; all or nothing is kept."""
        with self.errors(), self.engine.connect() as connection:
            connection = connection.execution_options(liveedit_begins="BEGIN IMMEDIATE")
            with connection.begin():
                if not self.sqlite:
                    wait = {"wait": str(int(1000 * PATIENCE))}
                    connection.execute(text("SELECT set_config('lock_timeout', :wait, true)"), wait)
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
                yield connection

    def vacuum(self) -> None:
        """Give free pages of SQLite's file back to the disk, and shorten its log."""
        with self.errors(), self.engine.connect() as connection:
            alone = connection.execution_options(liveedit_begins="")
            alone.exec_driver_sql("VACUUM")
            alone.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close all connections."""
        with self.errors():
            self.engine.dispose()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the database's errors into one line each: see :func:`translated`."""
        try:
            yield
        except SQLAlchemyError as error:
            raise translated(error, str(self)) from error

    # Opening

    def exists(self) -> bool:
        """Whether a store is here. Raises :class:`BadInput` for other data in its place."""
        if self.file is not None:
            with OPEN.lock:
                return self.file in OPEN or _is_store(self.file)
        with self.reading() as connection:
            return inspect(connection).has_table("edits")

    def check_revision(self) -> bool:
        """Whether the tables are those of this version; false where they are older or missing.

        Raises :class:`Mismatch` for a newer version's.
        """
        with self.reading() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return False
            [found] = connection.execute(text("SELECT version_num FROM alembic_version")).one()
        if found > HEAD:
            raise Mismatch(
                f"{self} was written by a newer LiveEdit (tables {found}): use that version"
            )
        return bool(found == HEAD)

    def check_place(self) -> None:
        """Raise :class:`StorageError` where SQLite's file cannot be made."""
        if self.file is not None:
            with writing(self.file, "give another path"):
                found = next(folder for folder in self.file.parents if folder.exists())
                if not found.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, f"{found} is a file")
                if not os.access(found, os.W_OK):
                    raise PermissionError(errno.EACCES, f"{found} may not be written")

    def create(self) -> None:
        """Create the tables, and the folder of SQLite's file; two that do it at once do no harm."""
        if self.file is not None:
            with writing(self.file):
                self.file.parent.mkdir(parents=True, exist_ok=True)
        self.migrate()

    def migrate(self) -> None:
        """Create the tables, or bring those of an earlier version up to date; all or nothing."""
        from liveedit.store.migrations import upgrade

        with self.writing() as connection:
            upgrade(connection)


@contextmanager
def blank() -> Iterator[Connection]:
    """A connection to the tables of an empty store, in memory."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.connect() as connection:
        metadata.create_all(connection)
        yield connection
    engine.dispose()


def _is_store(file: Path) -> bool:
    """Whether a file is a store, read from its header, so that no other file is touched.

    Raises :class:`BadInput` for any other file; a missing or empty one is none.
    """
    check_open(file)
    if not file.exists():
        return False
    if file.is_dir():
        raise BadInput(
            f"{file} is a folder: give the path of a store, such as {file.name}/edits.db"
        )
    if not file.is_file():
        raise BadInput(f"{file} is not a file: give the path of a store")
    with file.open("rb") as stream:
        header = stream.read(HEADER)
    if not header:
        return False
    if not header.startswith(MAGIC):
        raise BadInput(f"{file} is not a store: give another path")
    if int.from_bytes(header[MARK : MARK + 4]) != APPLICATION:
        raise BadInput(f"{file} is another program's database: give another path")
    return True


def _closed(_connection: Any, record: Any) -> None:
    """Note the end of a connection to SQLite's file."""
    if identity := record.info.pop("file", None):
        OPEN.remove(identity)


def _prepare_patiently(connection: Any) -> None:
    """Set up a new connection, again where another that creates the file stands in the way.

    Two connections that turn a new file's log on at once would wait for each other, so SQLite
    refuses one of them without waiting.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return _prepare(connection)
        except Exception as error:
            code = getattr(error, "sqlite_errorcode", 0)
            if code & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        time.sleep(RETRY)


def _prepare(connection: Any) -> None:
    """Set up a new connection to SQLite. Transactions begin where SQLAlchemy says so."""
    connection.isolation_level = None
    cursor = connection.cursor()
    if cursor.execute("PRAGMA page_count").fetchone()[0] == 0:
        # Before the log is used, so that the mark is in the file itself.
        cursor.execute(f"PRAGMA page_size = {PAGE}")
        cursor.execute(f"PRAGMA application_id = {APPLICATION}")
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        f"busy_timeout = {int(1000 * PATIENCE)}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    """Begin a transaction of SQLite: a writer's takes the lock at once, VACUUM needs none."""
    statement = connection.get_execution_options().get("liveedit_begins", "BEGIN")
    if statement:
        connection.exec_driver_sql(statement)


SQLITE_ERRORS: dict[int, tuple[type[LiveEditError], str]] = {
    sqlite3.SQLITE_FULL: (StorageError, "the disk is full: free some space"),
    sqlite3.SQLITE_BUSY: (StorageError, "another process writes to it: try again later"),
    sqlite3.SQLITE_LOCKED: (StorageError, "another process writes to it: try again later"),
    sqlite3.SQLITE_READONLY: (StorageError, "it cannot be written: check its permissions"),
    sqlite3.SQLITE_PERM: (StorageError, "it cannot be opened: check its permissions"),
    sqlite3.SQLITE_CANTOPEN: (StorageError, "it cannot be opened: check its path and permissions"),
    sqlite3.SQLITE_IOERR: (StorageError, "reading or writing failed: check the disk"),
    sqlite3.SQLITE_CORRUPT: (BadInput, "it is damaged: restore it from a copy"),
    sqlite3.SQLITE_NOTADB: (BadInput, "it is not a store: give another path"),
}
"""The error and the advice for a primary result code of SQLite."""


def translated(error: SQLAlchemyError, name: str) -> LiveEditError:
    """The error of this package for one of the database's."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in SQLITE_ERRORS:
        kind, advice = SQLITE_ERRORS[code & 0xFF]
        return kind(f"{name}: {advice}")
    reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    if isinstance(error, OperationalError):
        return StorageError(f"{name} cannot be used ({reason}): check that the database runs")
    return StorageError(f"{name}: {reason}: restore it from a copy, or report this")
