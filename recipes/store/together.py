"""Make edits while others ask, on the embedded model, and look whether anything is lost.

    python recipes/store/together.py 10000 --store together.db     # edits, and as many requests

One thread makes edits with pinpoint, some at a time, and takes some of them back; two threads ask
about the same images meanwhile. Every request must get an answer. At the end another process opens
the store: it must hold what was acknowledged, and answer as this one does. Prints edits and memory
whenever a quarter of the requests is answered. The figures are in docs/explanation/store.md.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path
from threading import Lock

import liveedit
from liveedit.data import load_cases
from liveedit.editable import EditableVLM
from liveedit.editors.common.precedence import question_number
from liveedit.types import Query

BATCH = 32
"""Edits of one call, and questions of one call."""
TAKEN_BACK = 8
"""Edits of every call that are taken back after it."""
ASKERS = 2
COMPARED = 64
"""Questions that another process is asked, too."""


def questions(count: int) -> list[Query]:
    """Questions about images, with answers; numbered, so that no two compete."""
    found: dict[int, Query] = {}
    for part in ("train", "test", "val"):
        for case in load_cases("emblem", part):
            for query in case.queries:
                if query.images and query.target:
                    found[question_number(query)] = query
    chosen = random.Random(0).sample(list(found.values()), count)
    return [replace(query, prompt=f"{query.prompt} ({at})") for at, query in enumerate(chosen)]


class Run:
    """Edits and requests at once."""

    def __init__(self, model: EditableVLM, asked: Sequence[Query]) -> None:
        self.model = model
        self.asked = asked
        self.kept: list[str] = []
        self.made = 0
        self.answered = 0
        self.editing = True
        self._lock = Lock()
        self._begun = time.perf_counter()

    def edit(self) -> None:
        """Make all edits."""
        try:
            for start in range(0, len(self.asked), BATCH):
                made = self.model.edit(self.asked[start : start + BATCH])
                self.made += len(made)
                self.model.forget([edit.id for edit in made[:TAKEN_BACK]])
                self.kept += [edit.id for edit in made[TAKEN_BACK:]]
        finally:
            self.editing = False

    def ask(self, seed: int) -> None:
        """Ask one asker's share of the requests, not ahead of the edits."""
        chance = random.Random(seed)
        for _ in range(ceil(len(self.asked) / BATCH / ASKERS)):
            while self.answered > self.made and self.editing:
                time.sleep(0.01)
            answers = self.model.generate(chance.sample(self.asked, BATCH))
            with self._lock:
                quarter = 4 * self.answered // len(self.asked)
                self.answered += len(answers)
                if 4 * self.answered // len(self.asked) > quarter:
                    self.say()

    def say(self) -> None:
        """Print how far the run is."""
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        memory = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        print(
            f"{time.perf_counter() - self._begun:7,.0f} s  {self.answered:6,} answers  "
            f"{self.made:6,} edits made  {memory:6,.0f} MB",
            flush=True,
        )

    def all(self) -> None:
        """Do everything at once; raises what any of it raises."""
        work: list[Callable[[], None]] = [self.edit]
        work += [partial(self.ask, seed) for seed in range(ASKERS)]
        self.say()
        with ThreadPoolExecutor(len(work)) as threads:
            for running in [threads.submit(each) for each in work]:
                running.result()
        self.say()


def state(model: EditableVLM, asked: Sequence[Query]) -> tuple[list[str], list[str]]:
    """The ids of the edits, and some answers."""
    return [edit.id for edit in model.history], model.generate(asked[:COMPARED])


def main() -> None:
    """Run from the command line; exit status 1 where something is lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("count", type=int, help="edits, and requests")
    parser.add_argument("--store", required=True, help="path or URL of a new store")
    parser.add_argument("--look", action="store_true", help="print the state of a store")
    given = parser.parse_args()
    asked = questions(given.count)
    model = liveedit.load(store=given.store)
    if given.look:
        print(json.dumps(state(model, asked)))
        return
    run = Run(model, asked)
    run.all()
    command = [sys.executable, __file__, str(given.count), "--store", given.store, "--look"]
    seen = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    ids, answers = json.loads(seen)
    same = ids == run.kept and (ids, answers) == state(model, asked)
    print(f"{len(ids):,} edits in the store: " + ("nothing is lost" if same else "LOST"))
    sys.exit(not same)


if __name__ == "__main__":
    main()
