"""A PostgreSQL server of its own, and stores in either database."""

import os
import shutil
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from liveedit.store.edit import Edit
from liveedit.store.store import Maker, Store, now
from liveedit.store.tensors import Layout


def programs():
    """The folder of PostgreSQL's programs; ``None`` where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # where Debian puts them
    if found:
        return found[-1]
    initdb = shutil.which("initdb")
    return Path(initdb).parent if initdb else None


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory):
    """The URL of a server that is stopped at the end; skips where PostgreSQL is not installed."""
    folder = programs()
    if folder is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    import tempfile

    data = Path(tempfile.mkdtemp(prefix="liveedit-postgresql-"))
    user = {}
    if os.getuid() == 0:  # the server does not run as root
        shutil.chown(data, "postgres")
        user = {"user": "postgres"}
    run = {"check": True, "capture_output": True, "cwd": data, **user}
    subprocess.run([folder / "initdb", "-D", data / "db", "-U", "tester", "-A", "trust"], **run)
    socket = f"-k {data} -c listen_addresses='' -c fsync=on"
    start = [folder / "pg_ctl", "-D", data / "db", "-o", socket, "-l", data / "log", "-w", "start"]
    subprocess.run(start, **(run | {"capture_output": False}), stdout=subprocess.DEVNULL)
    yield f"postgresql://tester@/{{name}}?host={data}"
    stop = [folder / "pg_ctl", "-D", data / "db", "-m", "immediate", "stop"]
    subprocess.run(stop, **run)
    shutil.rmtree(data, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """The address of a store that does not exist yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'edits.db'}"
    return new_database(request.getfixturevalue("postgresql"))


def new_database(server):
    """The URL of a new database on a server."""
    import psycopg

    name = f"test_{uuid4().hex}"
    with psycopg.connect(server.format(name="postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.format(name=name)


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
