"""Writers that are killed at any moment, beside readers: no acknowledged edit is lost."""

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from liveedit.store.store import Store
from store.conftest import content

KILLS = 5
WRITER = """
import sys
from liveedit.store.store import Store
from store.conftest import MAKER, content, new_edit
store = Store(sys.argv[1])
content(0)  # imports what writing needs
print("ready", flush=True)
for number in range(int(sys.argv[2]), 10**6):
    edit = new_edit(number)
    with store.change("edit") as change:
        change.add(edit, change.maker(MAKER).number, images=[b"1" * 40_000], **content(number))
    print(edit.id, number, flush=True)
"""


def check_row(store, row):
    """The tensors of an edit are its own, and whole."""
    number = int(row.edit.target.split()[1])
    for part in ("keys", "factors"):
        assert store.rows([row.number], part) == [content(number)[part]]


class Reader(threading.Thread):
    """Reads all the time: no edit is half there, and none that was there goes."""

    def __init__(self, url):
        super().__init__()
        self.url = url
        self.running = True
        self.failure = None
        self.reads = 0

    def run(self):
        store = Store(self.url)
        seen = set()
        try:
            while self.running:
                rows = store.kept()
                ids = {row.edit.id for row in rows}
                assert seen <= ids
                for row in random.sample(rows, min(5, len(rows))):
                    check_row(store, row)
                seen = ids
                self.reads += 1
        except Exception as error:
            self.failure = error
        store.close()


def killed_writer(url, start, delay):
    """Run a writer and kill it; return what it acknowledged."""
    command = [sys.executable, "-c", WRITER, url, str(start)]
    folder = Path(__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as writer:
        assert writer.stdout.readline() == "ready\n"
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        lines = writer.stdout.read().splitlines(keepends=True)
    return dict(line.split() for line in lines if line.endswith("\n"))


@pytest.mark.slow
def test_every_acknowledged_edit_survives_kills(url):
    store = Store(url)
    with store.change("edit"):  # which creates it
        pass
    store.close()
    readers = [Reader(url), Reader(url)]
    for reader in readers:
        reader.start()
    chance = random.Random(0)
    known = {}
    for number in range(KILLS):
        known |= killed_writer(url, 1000 * number, chance.uniform(0.0, 0.3))
    for reader in readers:
        reader.running = False
        reader.join()
        assert reader.failure is None
        assert reader.reads > 5
    store = Store(url)
    rows = {row.edit.id: row for row in store.kept()}
    assert known.keys() <= rows.keys()
    assert len(rows) <= len(known) + KILLS  # a killed writer acknowledges at most one too few
    assert len(known) > KILLS
    for row in rows.values():
        check_row(store, row)
    store.close()
