"""Writers that are killed at any moment, beside readers: no acknowledged edit is lost.

A longer run prints what it saw (docs/explanation/store.md):

    KILLS=500 python -m pytest tests/store -n 0 -s -m slow -k kills
"""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from liveedit.store.store import Store
from liveedit.store.upkeep import verify
from store.conftest import content

KILLS = int(os.environ.get("KILLS", "5"))
WRITERS = """
import os
import sys
from liveedit.store.store import Store
from store.conftest import MAKER, content, new_edit

def write(start):
    store = Store(sys.argv[1])
    print("writer", os.getpid(), flush=True)
    for number in range(start, 10**6):
        edit = new_edit(number)
        with store.change("edit") as change:
            change.add(edit, change.maker(MAKER).number, images=[b"1" * 40_000], **content(number))
        print("kept", edit.id, flush=True)

Store(sys.argv[1]).close()  # these two import what writing needs
content(0)
for line in sys.stdin:
    if not (writer := os.fork()):
        write(int(line))
    os.waitpid(writer, 0)
    print("\\nkilled", flush=True)
"""
"""A program that starts a writer for each line of its input: the number of its first question."""


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


class Writers:
    """Starts writers, one after the other, and kills them."""

    def __init__(self, url):
        command = [sys.executable, "-c", WRITERS, url]
        folder = Path(__file__).parents[1]
        pipe = subprocess.PIPE
        self.program = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=folder)

    def killed(self, start, delay):
        """Run a writer for a time, and kill it; return the ids that it acknowledged."""
        self.program.stdin.write(f"{start}\n")
        self.program.stdin.flush()
        _, writer = self.program.stdout.readline().split()
        time.sleep(delay)
        os.kill(int(writer), signal.SIGKILL)
        lines = iter(self.program.stdout.readline, "killed\n")
        return {line.split()[1] for line in lines if re.fullmatch(r"kept \w{12}\n", line)}

    def close(self):
        self.program.communicate()


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
    known = set()
    writers = Writers(url)
    for number in range(KILLS):
        known |= writers.killed(1000 * number, chance.uniform(0.0, 0.3))
    writers.close()
    for reader in readers:
        reader.running = False
        reader.join()
        assert reader.failure is None
        assert reader.reads > 5
    store = Store(url)
    rows = {row.edit.id: row for row in store.kept()}
    assert known <= rows.keys()
    assert len(rows) <= len(known) + KILLS  # a killed writer acknowledges at most one too few
    assert len(known) > KILLS
    for row in rows.values():
        check_row(store, row)
        assert store.images(row.number) == [b"1" * 40_000]
    assert all("images" in line for line in verify(store))  # those are no images
    store.close()
    reads = sum(reader.reads for reader in readers)
    print(f"{KILLS} kills, {len(known)} edits acknowledged, {len(rows)} kept, {reads} reads")
