"""Stores in either database."""

from uuid import uuid4

import pytest
from sqlalchemy import text

from helpers.databases import new_database, postgresql
from liveedit.store.edit import Edit
from liveedit.store.store import Maker, Store, now
from liveedit.store.tensors import Layout

__all__ = ["new_database", "postgresql"]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """The address of a store that does not exist yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'edits.db'}"
    return new_database(request.getfixturevalue("postgresql"))


@pytest.fixture
def store(url):
    """An empty store."""
    made = Store(url)
    yield made
    made.close()


LAYOUT = Layout.from_json([["key", "float32", [4], False], ["value", "float32", [2, 8], True]])
MAKER = Maker("pinpoint", "editor-1", "model-1", {"model": "emblem"}, LAYOUT)


def new_edit(number, **fields):
    """An edit of question ``number``."""
    return Edit(
        **{
            "id": uuid4().hex[:12],
            "prompt": f"Question {number}?",
            "target": f"answer {number}",
            "image": f"{number:016x}",
            "time": now(),
        }
        | fields
    )


def content(number, layout=LAYOUT):
    """Keys and factors of edit ``number``."""
    fill = bytes([number % 251])
    return {"keys": fill * layout.part(False).size, "factors": fill * layout.part(True).size}


def add(store, *numbers, kind="edit", who="", **fields):
    """Add edits of these questions in one change, and return them."""
    with store.change(kind, who) as change:
        maker = change.maker(MAKER)
        return [
            change.add(new_edit(number, **fields), maker.number, **content(number))
            for number in numbers
        ]


def to_first_revision(store):
    """Give a store the tables of the first revision, as an earlier version of the package did."""
    with store.database.writing() as connection:
        for table in ("sketches", "bases"):
            connection.execute(text(f"DROP TABLE {table}"))
        for index in ("edits_made_in", "edits_forgotten_in"):
            connection.execute(text(f"DROP INDEX {index}"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
