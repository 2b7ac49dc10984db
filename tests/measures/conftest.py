"""Records with changes."""

from dataclasses import replace
from pathlib import Path

import pytest

from liveedit.types import Record

PLAIN = {
    "wanted": "target",
    "target": "Japan",
    "answer_before": "France",
    "answer_after": "Japan",
    "tokens_wanted": (1, 2),
    "tokens_after": (1, 2),
    "scores": {},
}


@pytest.fixture(scope="session")
def version_1():
    """The folder with records of version 1, and the tables that were made of them then."""
    return Path(__file__).parents[1] / "assets" / "records-version-1"


@pytest.fixture
def record(version_1):
    """Makes a record of a right answer, with changes."""
    line = (version_1 / "records-0.jsonl").read_text(encoding="utf-8").partition("\n")[0]

    def record(**changes):
        return replace(Record.from_json(line), **PLAIN | changes)

    return record
