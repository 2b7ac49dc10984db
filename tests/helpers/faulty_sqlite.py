"""SQLite whose writes, syncs and truncations fail, or are lost, on demand; by apsw's file system.

``apsw`` carries its own SQLite, to which a file system written in Python can be given. The classes
below are as much of Python's DB-API as SQLAlchemy's SQLite dialect needs.
"""

import random
import sqlite3
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import apsw

from liveedit.store.database import Database, store_url

ERRORS = {"error": apsw.IOError, "full": apsw.FullError}
CODES = {apsw.IOError: apsw.SQLITE_IOERR, apsw.FullError: apsw.SQLITE_FULL}


@dataclass
class Faults:
    """Which call fails.

    Arguments:
        at: The number of the first call that fails, counted from 1; 0 for none.
        lasting: Whether all later calls fail, too.
        kind: "error", "full", or "short": a write that stops halfway with an error.
        calls: How many calls there were.
    """

    at: int = 0
    lasting: bool = False
    kind: str = "error"
    calls: int = 0

    def fails(self):
        """Count a call, and whether it fails."""
        self.calls += 1
        return bool(self.at) and (self.calls == self.at or (self.lasting and self.calls > self.at))


@dataclass
class Disk:
    """The content that a file would have after a power cut.

    Arguments:
        synced: Its content at the last sync.
        unsynced: The writes since then, by their offset.
    """

    synced: bytes = b""
    unsynced: list = field(default_factory=list)

    def after_power_cut(self, chance):
        """The synced content with some of the later writes, in any order."""
        content = bytearray(self.synced)
        kept = [write for write in self.unsynced if chance.random() < 0.5]
        chance.shuffle(kept)
        for offset, data in kept:
            if data is None:
                del content[offset:]
                continue
            content.extend(bytes(max(0, offset + len(data) - len(content))))
            content[offset : offset + len(data)] = data
        return bytes(content)


class FaultyFile(apsw.VFSFile):
    """A file whose calls fail as told."""

    def __init__(self, base, name, flags, vfs):
        super().__init__(base, name, flags)
        self.vfs = vfs
        text = name.filename() if hasattr(name, "filename") else name
        self.path = Path(text or "")
        self.disk = vfs.disks.setdefault(self.path.name, Disk())
        if self.path.is_file() and not self.disk.synced:
            self.disk.synced = self.path.read_bytes()

    def xWrite(self, data, offset):  # noqa: N802
        faults = self.vfs.faults
        if faults.fails():
            if faults.kind == "short":
                super().xWrite(bytes(data)[: len(data) // 2], offset)
            raise ERRORS.get(faults.kind, apsw.IOError)()
        self.disk.unsynced.append((offset, bytes(data)))
        super().xWrite(data, offset)

    def xSync(self, flags):  # noqa: N802
        if self.vfs.faults.fails():
            raise apsw.IOError()
        super().xSync(flags)
        self.disk.synced = self.path.read_bytes() if self.path.is_file() else b""
        self.disk.unsynced.clear()

    def xTruncate(self, size):  # noqa: N802
        if self.vfs.faults.fails():
            raise apsw.IOError()
        self.disk.unsynced.append((size, None))
        super().xTruncate(size)


class FaultySystem(apsw.VFS):
    """A file system whose files fail as ``faults`` says."""

    numbers = count()

    def __init__(self):
        self.faults = Faults()
        self.disks = {}
        self.name = f"faulty-{next(self.numbers)}"
        super().__init__(self.name, "")

    def xOpen(self, name, flags):  # noqa: N802
        return FaultyFile("", name, flags, self)

    def power_cut(self, folder, seed):
        """Write into ``folder`` what would be left of each file."""
        chance = random.Random(seed)
        for name, disk in self.disks.items():
            if not name.endswith("-shm"):
                (folder / name).write_bytes(disk.after_power_cut(chance))


class Cursor:
    """A cursor of the DB-API."""

    def __init__(self, connection):
        self.connection = connection
        self.lastrowid = None
        self.rowcount = -1
        self.arraysize = 1
        self.description = None
        self._rows = iter(())

    def execute(self, statement, parameters=()):
        return self._run(statement, [parameters])

    def executemany(self, statement, many):
        return self._run(statement, many)

    def _run(self, statement, many):
        base = self.connection.base
        with as_sqlite3():
            for parameters in many:
                cursor = base.cursor()
                cursor.execute(statement, tuple(parameters))
                try:
                    self.description = cursor.getdescription()
                    self.description = tuple(
                        (*entry, None, None, None, None, None)[:7] for entry in self.description
                    )
                except apsw.ExecutionCompleteError:
                    self.description = None
                self._rows = iter(list(cursor))
            self.lastrowid = base.last_insert_rowid()
            self.rowcount = base.changes()
        return self

    def fetchone(self):
        return next(self._rows, None)

    def fetchmany(self, size=1):
        return [row for row, _ in zip(self._rows, range(size), strict=False)]

    def fetchall(self):
        return list(self._rows)

    def __iter__(self):
        return self._rows

    def close(self):
        self._rows = iter(())


class as_sqlite3:  # noqa: N801
    """Context that turns apsw's errors into those of ``sqlite3``."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, apsw.Error):
            known = sqlite3.OperationalError(str(error))
            known.sqlite_errorcode = getattr(error, "result", CODES.get(type(error), 1))
            raise known from error


class Connection:
    """A connection of the DB-API, which begins no transaction by itself."""

    isolation_level = None

    def __init__(self, file, system):
        with as_sqlite3():
            self.base = apsw.Connection(str(file), vfs=system.name)
            self.base.set_busy_timeout(5000)

    def cursor(self, *_args):
        return Cursor(self)

    def execute(self, statement, parameters=()):
        return self.cursor().execute(statement, parameters)

    def commit(self):
        if self.base.in_transaction:
            self.execute("COMMIT")

    def rollback(self):
        if self.base.in_transaction:
            self.execute("ROLLBACK")

    def create_function(self, name, count, function, deterministic=False):
        self.base.create_scalar_function(name, function, count, deterministic=deterministic)

    def close(self):
        with as_sqlite3():
            self.base.close(True)


class Module:
    """The module of the DB-API."""

    paramstyle = "qmark"
    threadsafety = 1
    apilevel = "2.0"
    sqlite_version_info = tuple(map(int, apsw.sqlite_lib_version().split(".")))
    sqlite_version = apsw.sqlite_lib_version()
    PARSE_DECLTYPES = PARSE_COLNAMES = 0
    Binary = staticmethod(memoryview)
    for name in (
        "Error",
        "Warning",
        "DatabaseError",
        "OperationalError",
        "IntegrityError",
        "InterfaceError",
        "ProgrammingError",
        "InternalError",
        "DataError",
        "NotSupportedError",
    ):
        locals()[name] = getattr(sqlite3, name)
    del name


def faulty_database(file, system):
    """The database in ``file`` on a file system that fails."""
    return Database(store_url(file), connect=lambda: Connection(file, system), module=Module)
