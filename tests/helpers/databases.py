"""A PostgreSQL server of the tests' own."""

import os
import shutil
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest


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


def new_database(server):
    """The URL of a new database on a server."""
    import psycopg

    name = f"test_{uuid4().hex}"
    with psycopg.connect(server.format(name="postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.format(name=name)
