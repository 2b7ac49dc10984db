"""Make edits one by one in a store, and print whether the time of one grows with their number.

    python recipes/store/stream.py 10000 --store stream.db

The edits are those of Emblem's counterfactual cases, of all splits and as many seeds as it takes.
The default editor makes them, with its checks: whether an edit takes, and which earlier ones it is
in conflict with. The figures are in docs/explanation/store.md.
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import liveedit
from liveedit.data.emblem.cases import counterfactuals
from liveedit.editable import EditableVLM
from liveedit.editors.common.precedence import question_number
from liveedit.types import Query

EVERY = 1000
"""Edits after which figures are printed."""


def edits() -> Iterator[Query]:
    """Edits of different questions or images."""
    known = set()
    for seed in count():
        for part in ("train", "val", "test"):
            for case in counterfactuals(part, seed):  # type: ignore[arg-type]
                number = question_number(case.edits[0])
                if number not in known:
                    known.add(number)
                    yield case.edits[0]


def timed(model: EditableVLM, query: Query) -> float:
    """The seconds of one edit."""
    begun = time.perf_counter()
    model.edit(query)
    return time.perf_counter() - begun


def resident() -> float:
    """The resident memory in GB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def main() -> None:
    """Make the edits, and print a line for each :data:`EVERY` of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("edits", type=int)
    parser.add_argument("--store", required=True, help="path or URL of a new store")
    given = parser.parse_args()
    model = liveedit.load(store=given.store)
    queries = islice(edits(), given.edits)
    made = 0
    while seconds := [timed(model, query) for query in islice(queries, EVERY)]:
        made += len(seconds)
        *_, slow = statistics.quantiles(seconds, n=100)
        middle = 1000 * statistics.median(seconds)
        print(
            f"{made:7,} edits: {middle:5.1f} ms each, one in a hundred over {1000 * slow:5.1f} ms, "
            f"memory {resident():.2f} GB",
            flush=True,
        )


if __name__ == "__main__":
    main()
