"""Lists of a store's edits: state, search, pages and hits."""

import pytest

from liveedit.errors import BadInput
from liveedit.store.entries import STATES, count_entries, entries, entry
from liveedit.store.store import Hit, now
from store.conftest import add


@pytest.fixture
def rows(store):
    """Edits of the questions 1, 2, 1 and 3, the last taken back."""
    made = add(store, 1, who="Ann") + add(store, 2, why="50 % off") + add(store, 1) + add(store, 3)
    with store.change("forget") as change:
        change.forget([made[3].number])
    return made


def ids(found):
    return [entry.edit.id for entry in found]


def test_states(store, rows):
    first, second, third, fourth = (row.edit.id for row in rows)
    assert ids(entries(store)) == [fourth, third, second, first]
    states = {state: ids(entries(store, state)) for state in STATES}
    assert states == {
        "in_force": [third, second],
        "superseded": [first],
        "taken_back": [fourth],
    }
    assert [count_entries(store, state) for state in (None, *STATES)] == [4, 2, 1, 1]
    assert entry(store, first[:10]).edit.superseded_by == third
    for state in STATES:
        assert {found.state for found in entries(store, state)} == {state}


def test_an_edit_comes_into_force_again_when_the_later_one_is_taken_back(store, rows):
    with store.change("forget") as change:
        change.forget([rows[2].number])
    assert entry(store, rows[0].edit.id).state == "in_force"
    assert entry(store, rows[2].edit.id).edit.superseded_by == ""


def test_search_finds_texts_and_takes_no_pattern(store, rows):
    assert ids(entries(store, search="QUESTION 2")) == [rows[1].edit.id]
    assert ids(entries(store, search="50 %")) == [rows[1].edit.id]
    assert entries(store, search="5_ %") == entries(store, search="%2") == []
    assert count_entries(store, "in_force", "answer") == 2


def test_pages(store, rows):
    found = []
    while page := entries(store, before=found[-1] if found else "", limit=3):
        found += ids(page)
    assert found == [row.edit.id for row in reversed(rows)]
    with pytest.raises(BadInput, match="no edit"):
        entries(store, before="nothing")


def test_hits_are_counted(store, rows):
    number = rows[1].number
    store.record_hits([Hit(number, 0.5, now())] * 3)
    assert [found.hits for found in entries(store)] == [0, 0, 3, 0]
    assert entry(store, rows[1].edit.id).as_json()["hits"] == 3
