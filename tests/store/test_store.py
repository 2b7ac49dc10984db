"""Stores in SQLite and PostgreSQL: changes are kept whole, read by others, and never lost."""

import sqlite3
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from liveedit.errors import BadInput, Mismatch, StorageError
from liveedit.store.browsing import page
from liveedit.store.store import Hit, News, Store
from store.conftest import MAKER, add, content, new_edit, to_first_revision


def ids(rows):
    return [row.edit.id for row in rows]


def test_what_is_added_is_read_by_another(store, url):
    made = add(store, 1, 2, who="ann", why="wrong")
    other = Store(url, create=False)
    assert other.kept() == store.kept() == made
    assert [edit.who for edit in other.edits()] == ["", ""]
    numbers = [row.number for row in made]
    for part in ("keys", "factors"):
        assert other.rows(numbers[::-1], part) == [content(2)[part], content(1)[part]]
    [maker] = other.makers()
    assert maker.layout == MAKER.layout
    assert maker.opens_with == MAKER.opens_with
    other.close()


def test_who_and_why_are_kept(store):
    with store.change("edit", "ann") as change:
        maker = change.maker(MAKER)
        change.add(new_edit(1, who="ann", why="wrong"), maker.number)
    [edit] = store.edits()
    assert (edit.who, edit.why) == ("ann", "wrong")


def test_a_change_that_fails_leaves_nothing(store):
    add(store, 1)
    version = store.version
    with suppress(ZeroDivisionError), store.change("edit") as change:
        change.add(new_edit(2), change.maker(MAKER).number)
        version / 0
    assert store.version == version
    assert len(store.kept()) == 1


@pytest.mark.parametrize("at", ["x", 1.5, True, datetime.now(UTC)])
def test_a_version_is_a_number(store, at):
    add(store, 1)
    for read in (store.kept, store.edits, lambda at: page(store, at=at)):
        with pytest.raises(BadInput, match="a version of a store is a whole number"):
            read(at)
    if not isinstance(at, datetime):
        with pytest.raises(BadInput, match="a time is a datetime, not"):
            store.version_at(at)


def test_the_later_edit_of_a_question_supersedes(store):
    first, second = add(store, 1, 1)
    assert [edit.superseded_by for edit in store.edits()] == [second.edit.id, ""]
    with store.change("forget") as change:
        change.forget([second.number])
    [edit] = store.edits()
    assert edit == first.edit
    assert edit.superseded_by == ""


def test_past_states_can_be_read(store):
    [first] = add(store, 1)
    between = datetime.now(UTC)
    [second] = add(store, 2)
    with store.change("forget") as change:
        change.forget([first.number])
    assert ids(store.kept()) == [second.edit.id]
    assert ids(store.kept(store.version_at(between))) == [first.edit.id]
    assert ids(store.kept(second.made_in)) == ids([first, second])
    assert store.kept(0) == []


def test_changes_since_a_version_are_told(store):
    [first] = add(store, 1)
    version = store.version
    assert store.news(version) == News(version)
    [second] = add(store, 2)
    with store.change("forget") as change:
        change.forget([first.number])
    news = store.news(version)
    made = [(second.number, second.maker, second.edit.number)]
    assert news == News(version + 2, made=made, gone=[first.number])
    assert store.news(0) == News(version + 2, made=made, gone=[])


def test_news_name_the_edits_in_conflict_by_their_numbers(store):
    [first] = add(store, 1)
    with store.change("edit") as change:
        edit = replace(new_edit(2), conflicts=(first.edit.id, "unknown"))
        second = change.add(edit, first.maker)
    assert store.news(0).in_conflict == {second.number: (first.number,)}


def test_an_edit_is_found_by_the_beginning_of_its_id(store):
    with store.change("edit") as change:
        maker = change.maker(MAKER).number
        for id in ("abc1", "abc2", "abc", "x%y"):
            change.add(new_edit(1, id=id), maker)
    assert store.find("abc1").edit.id == "abc1"
    assert store.find("abc").edit.id == "abc"
    assert store.find("x%").edit.id == "x%y"
    with pytest.raises(BadInput, match="may be any of"):
        store.find("ab")
    for missing in ("z", "", "%", "_"):
        with pytest.raises(BadInput, match="no edit"):
            store.find(missing)


def test_images_weights_and_hits(store):
    with store.change("edit") as change:
        maker = change.maker(MAKER).number
        row = change.add(new_edit(1), maker, images=[b"one", b"two"], thumbnail=b"small")
        change.set_weights(maker, b"x" * (1 << 24) + b"y")
    assert store.images(row.number) == [b"one", b"two"]
    assert store.thumbnail(row.number) == b"small"
    assert store.weights(maker) == b"x" * (1 << 24) + b"y"
    with store.change("edit") as change:
        change.set_weights(maker, b"less")
    assert store.weights(maker) == b"less"
    assert store.hit_counts() == {}
    store.record_hits([Hit(row.number, 0.5, "2026-01-01", "a"), Hit(row.number, 1.0, "2026-01-02")])
    assert store.hit_counts() == {row.number: 2}
    assert [hit.time for hit in store.hits(row.number)] == ["2026-01-02", "2026-01-01"]


def test_many_create_a_store_together(url):
    failures = []

    def create():
        try:
            store = Store(url)
            with store.change("edit"):
                pass
            store.close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    store = Store(url, create=False)
    assert (store.version, store.kept()) == (8, [])
    store.close()


def test_a_store_is_created_by_its_first_change(url):
    store = Store(url)
    assert (store.exists, store.version, store.makers(), store.kept()) == (False, 0, [], [])
    with pytest.raises(ZeroDivisionError), store.change("edit"):
        1 / 0  # noqa: B018
    assert store.version == 0
    store.close()


def test_writers_take_turns(url):
    """Twenty threads, each with a store of its own, add to a count that they read first."""
    Store(url).close()
    failures = []

    def write():
        try:
            store = Store(url)
            for _ in range(3):
                with store.change("edit") as change:
                    count = len(store.kept())
                    change.add(new_edit(count), change.maker(MAKER).number)
            store.close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    store = Store(url)
    assert [edit.prompt for edit in store.edits()] == [f"Question {n}?" for n in range(60)]
    assert store.version == 60
    assert len(store.makers()) == 1
    store.close()


def test_one_store_serves_many_threads(store):
    failures = []

    def read():
        try:
            for _ in range(20):
                rows = store.kept()
                assert store.rows([row.number for row in rows], "keys")
        except Exception as error:
            failures.append(error)

    add(store, 0)
    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in range(1, 20):
        add(store, number)
    for thread in threads:
        thread.join()
    assert not failures


READER = """
import sys, time
from liveedit.store.store import Store
store = Store(sys.argv[1])
print("ready", flush=True)
while not (rows := store.kept()):
    time.sleep(0.01)
print(rows[0].edit.id, flush=True)
"""


def test_another_process_sees_an_edit_at_once(store, url):
    with subprocess.Popen(
        [sys.executable, "-c", READER, url], stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout.readline() == "ready\n"
        [row] = add(store, 1)
        before = datetime.now(UTC)
        assert reader.stdout.readline().strip() == row.edit.id
        assert (datetime.now(UTC) - before).total_seconds() < 1


def test_a_damaged_row_is_named(store, url):
    first, second = add(store, 1, 2)
    with store.database.writing() as connection:
        statement = "UPDATE experts SET keys = :other WHERE edit = :number"
        connection.execute(text(statement), {"other": b"damaged", "number": second.number})
    assert store.rows([first.number], "keys") == [content(1)["keys"]]
    with pytest.raises(BadInput, match=f"edit {second.edit.id} .* is damaged"):
        store.rows([first.number, second.number], "keys")
    with pytest.raises(BadInput, match="missing"):
        store.rows([999], "keys")


def test_a_newer_version_s_store_is_refused(store, url):
    with store.change("edit"):
        pass
    with store.database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Mismatch, match="newer LiveEdit"):
        Store(url)


def test_an_earlier_version_s_tables_are_brought_up_to_date_once(store, url):
    first, second = add(store, 1, 2)
    with store.change("forget") as change:
        change.forget([first.number])
    before = store.kept(), store.version
    to_first_revision(store)
    opened = []
    threads = [threading.Thread(target=lambda: opened.append(Store(url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    for other in opened:
        assert (other.kept(), other.version) == before
        assert other.rows([second.number], "keys") == [content(2)["keys"]]
        assert other.database.check_revision()
        other.close()


def test_a_missing_store_is_not_made_for_reading(tmp_path):
    with pytest.raises(BadInput, match="no edits in"):
        Store(tmp_path / "none.db", create=False)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("notes"), "is not a store"),
        (lambda path: path.write_bytes(b"\0" * 200), "is not a store"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: sqlite3.connect(path).execute("CREATE TABLE t (x)").connection.close(),
         "another program's database"),
    ],
)  # fmt: skip
def test_nothing_else_is_touched(tmp_path, make, message):
    path = tmp_path / "other.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(BadInput, match=message):
        Store(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["other.db"]
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/db", "cannot be in mysql"),
        ("://", "no database URL"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("postgresql://nobody@127.0.0.1:1/none", "check that the database runs"),
    ],
)
def test_addresses_that_lead_nowhere(url, message):
    with pytest.raises((BadInput, StorageError), match=message):
        Store(url)


def test_a_missing_folder_is_made(tmp_path):
    store = Store(tmp_path / "missing" / "edits.db")
    assert list(tmp_path.iterdir()) == []
    with store.change("edit"):
        pass
    store.close()
    assert Store(tmp_path / "missing" / "edits.db", create=False).version == 1


@pytest.mark.parametrize("path", ["notes.txt/edits.db", "closed/edits.db", "closed/new/edits.db"])
def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path, monkeypatch, path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "closed").mkdir()
    monkeypatch.setattr("os.access", lambda folder, _: Path(folder).name != "closed")
    with pytest.raises(StorageError, match=r"cannot write .*edits\.db"):
        Store(tmp_path / path)


def test_a_store_waits_for_a_writer_and_then_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("liveedit.store.database.PATIENCE", 0.2)
    store = Store(tmp_path / "edits.db")
    other = Store(tmp_path / "edits.db")
    refused = pytest.raises(StorageError, match="another process writes")
    with store.change("edit"), refused, other.change("edit"):
        pass
    add(other, 1)
    assert len(store.kept()) == 1
    store.close()
    other.close()


CALLER = """
import sys
from liveedit.store.store import Store
store = Store(sys.argv[1])
print(len(store.kept()))
store.close()
"""


def test_another_process_that_comes_and_goes_takes_no_edit_along(store, url):
    """In SQLite, whoever closes last removes the log; another's must not look like the last."""

    def seen_by_another():
        command = [sys.executable, "-c", CALLER, url]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    add(store, 1)
    other = Store(url)  # looks at the file again
    assert seen_by_another() == 1
    add(store, 2)
    assert seen_by_another() == 2
    assert len(other.kept()) == 2
    other.close()
    add(store, 3)
    assert seen_by_another() == 3


NUL = "a\0b"


@pytest.mark.parametrize("fields", [{"prompt": NUL}, {"target": NUL}, {"who": NUL}, {"why": NUL}])
def test_null_characters_are_refused_in_one_line(store, fields):
    """PostgreSQL takes none."""
    with pytest.raises(BadInput, match="holds null characters: take them out"):
        add(store, 1, **{"prompt": "Who?", **fields})
    with pytest.raises(BadInput, match="who holds null characters"), store.change("edit", NUL):
        pass
    assert store.kept() == []


def test_a_search_for_null_characters_finds_nothing(store):
    add(store, 1)
    assert page(store, search=NUL) == ([], 0)
    for present in (False, True):
        with pytest.raises(BadInput, match="no edit"):
            store.find(NUL, present=present)
