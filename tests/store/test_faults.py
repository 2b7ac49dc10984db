"""A disk that fails, is full, or forgets what was not synced: no acknowledged edit is lost.

Every write, sync and truncation of a scenario fails once, alone or with all that follow.
"""

import itertools
import random
import shutil
from contextlib import suppress
from io import BytesIO

import pytest
from PIL import Image
from sqlalchemy import text

from helpers.faulty_sqlite import Faults, FaultySystem, faulty_database
from liveedit.data.images import images_hash
from liveedit.errors import LiveEditError
from liveedit.store.store import Store
from liveedit.store.upkeep import compact, verify
from store.conftest import MAKER, content, new_edit, to_first_revision


def picture(number):
    """A picture of edit ``number``, and its file of some pages."""
    image = Image.frombytes("RGB", (120, 120), random.Random(number).randbytes(120 * 120 * 3))
    stream = BytesIO()
    image.save(stream, "PNG")
    return image, stream.getvalue()


def acknowledged(store, known, number):
    """Add an edit; what the store acknowledges goes into ``known``: the ids in force."""
    image, file = picture(number)
    edit = new_edit(number, image=images_hash([image]))
    with store.change("edit") as change:
        maker = change.maker(MAKER).number
        change.add(edit, maker, images=[file], **content(number))
    known[edit.id] = number
    return edit.id


def forget(store, known, id):
    """Take an edit back; until that is acknowledged, it may be there or not."""
    number = known.pop(id)
    with store.change("forget") as change:
        change.forget([store.find(id).number])
    known[id] = None
    return number


def work(store, known):
    """Edits, one of them taken back, one by one, until a call fails."""
    first = acknowledged(store, known, 1)
    acknowledged(store, known, 2)
    forget(store, known, first)
    acknowledged(store, known, 3)


def check_message(error, file):
    """It is one line, and names the store."""
    assert "\n" not in str(error)
    assert str(file) in str(error)


def check(file, known):
    """The store in ``file`` holds what was acknowledged, and nothing half."""
    store = Store(file)
    with store.database.reading() as connection:
        assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"
    rows = {row.edit.id: row for row in store.kept()}
    for id, number in known.items():
        if number is None:
            assert id not in rows, "an edit that was taken back is there again"
        else:
            assert rows[id].edit.target == f"answer {number}"
    assert verify(store) == []
    for row in rows.values():
        [keys] = store.rows([row.number], "keys")
        [factors] = store.rows([row.number], "factors")
        number = int(row.edit.target.split()[1])
        assert {"keys": keys, "factors": factors} == content(number)
        assert store.images(row.number) == [picture(number)[1]]
    store.close()


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A store with an edit, closed; copies of it are worked on."""
    file = tmp_path_factory.mktemp("begun") / "edits.db"
    store = Store(file)
    known = {}
    acknowledged(store, known, 0)
    store.close()
    return file, known


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, begun):
    """A store whose process was killed: its last edits are in the log alone."""
    folder = tmp_path_factory.mktemp("interrupted")
    file, known = begun
    known = dict(known)
    shutil.copy(file, folder / "running.db")
    store = Store(folder / "running.db")
    work(store, known)
    for name in ("running.db", "running.db-wal"):
        shutil.copy(folder / name, folder / name.replace("running", "edits"))
    store.close()
    assert (folder / "edits.db-wal").stat().st_size
    return folder / "edits.db", known


def copied(file, folder):
    """A copy of a store and its log in a new folder."""
    folder.mkdir()
    for path in file.parent.glob(f"{file.name}*"):
        if not path.name.endswith("-shm"):
            shutil.copy(path, folder / path.name)
    return folder / file.name


def sweep(file, known, tmp_path, kind, lasting, fail_from, do=work):
    """Let each call in turn fail; ``fail_from`` is "opening" or "working". Return their number."""
    for at in itertools.count(1):
        copy = copied(file, tmp_path / str(at))
        system = FaultySystem()
        faults = Faults(at, lasting, kind)
        told = dict(known)
        if fail_from == "opening":
            system.faults = faults
        database = faulty_database(copy, system)
        try:
            store = Store(copy, database=database)
            system.faults = faults
            do(store, told)
        except LiveEditError as error:
            check_message(error, copy)
        finally:
            system.faults = Faults()
            database.close()
        check(copy, told)
        if faults.calls < at:
            return at - 1
    raise AssertionError


@pytest.mark.slow
@pytest.mark.parametrize("fail_from", ["working", "opening"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("kind", ["error", "full", "short"])
def test_every_call_fails(kind, lasting, fail_from, begun, interrupted, tmp_path):
    file, known = begun if fail_from == "working" else interrupted
    calls = sweep(file, known, tmp_path, kind, lasting, fail_from)
    assert calls > 30


@pytest.mark.slow
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("kind", ["error", "full", "short"])
def test_compacting_fails(kind, lasting, interrupted, tmp_path):
    file, known = interrupted
    calls = sweep(file, known, tmp_path, kind, lasting, "working", lambda store, _: compact(store))
    assert calls > 30


@pytest.mark.slow
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("kind", ["error", "full", "short"])
def test_bringing_old_tables_up_to_date_fails(kind, lasting, begun, tmp_path):
    file, known = begun
    old = copied(file, tmp_path / "old")
    store = Store(old)
    to_first_revision(store)
    store.close()
    assert sweep(old, known, tmp_path, kind, lasting, "opening", lambda *_: None) > 10


@pytest.mark.slow
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
def test_creating_a_store_fails(lasting, tmp_path):
    for at in itertools.count(1):
        file = tmp_path / f"{at}.db"
        system = FaultySystem()
        system.faults = Faults(at, lasting)
        database = faulty_database(file, system)
        known = {}
        try:
            acknowledged(Store(file, database=database), known, 1)
        except LiveEditError as error:
            check_message(error, file)
        calls = system.faults.calls
        system.faults = Faults()
        database.close()
        check(file, known)
        if calls < at:
            break
    assert at > 20


@pytest.mark.parametrize("seed", range(20))
def test_a_power_cut_loses_what_was_not_synced(seed, begun, tmp_path):
    file, known = begun
    copy = copied(file, tmp_path / "running")
    system = FaultySystem()
    system.faults = Faults(at=1 + 7 * seed % 60, lasting=True)
    database = faulty_database(copy, system)
    known = dict(known)
    with suppress(LiveEditError):
        work(Store(copy, database=database), known)
    after = tmp_path / "after"
    after.mkdir()
    system.power_cut(after, seed)
    system.faults = Faults()
    database.close()
    check(after / copy.name, known)
