"""Lists of a store's edits: state, search, pages, hits and history."""

from typing import get_args

import pytest

from liveedit.errors import BadInput
from liveedit.store.browsing import State, in_force, listed, page, story
from liveedit.store.store import Hit, now
from store.conftest import add


@pytest.fixture
def rows(store):
    """Edits of the questions 1, 2, 1 and 3, the last taken back."""
    made = add(store, 1, who="Ann") + add(store, 2, why="50 % off") + add(store, 1) + add(store, 3)
    with store.change("forget", "Bob") as change:
        change.forget([made[3].number])
    return made


def ids(found):
    return [told.kept.edit.id for told in found]


def test_states(store, rows):
    first, second, third, fourth = (row.edit.id for row in rows)
    assert ids(page(store, state=None)[0]) == [fourth, third, second, first]
    found = {state: page(store, state=state) for state in get_args(State)}
    assert {state: ids(some) for state, (some, _) in found.items()} == {
        "in_force": [third, second],
        "superseded": [first],
        "taken_back": [fourth],
    }
    assert {state: count for state, (_, count) in found.items()} == {
        "in_force": 2,
        "superseded": 1,
        "taken_back": 1,
    }
    assert in_force(store) == 2
    assert listed(store, [rows[0].number])[0].superseded_by == third


def test_an_edit_comes_into_force_again_when_the_later_one_is_taken_back(store, rows):
    with store.change("forget") as change:
        change.forget([rows[2].number])
    first, third = listed(store, [rows[0].number, rows[2].number])
    assert (first.state, first.superseded_by) == ("in_force", "")
    assert (third.state, third.superseded_by) == ("taken_back", "")


def test_a_listing_of_the_past(store, rows):
    first, second, third, fourth = (row.edit.id for row in rows)
    now = store.version
    for at, in_force_then, superseded, taken_back in (
        (0, [], [], []),
        (rows[0].made_in, [first], [], []),
        (rows[1].made_in, [second, first], [], []),
        (rows[2].made_in, [third, second], [first], []),
        (rows[3].made_in, [fourth, third, second], [first], []),
        (now, [third, second], [first], [fourth]),
    ):
        found = {state: page(store, state=state, at=at)[0] for state in get_args(State)}
        assert ids(found["in_force"]) == in_force_then
        assert ids(found["superseded"]) == superseded
        assert ids(found["taken_back"]) == taken_back
        for state, some in found.items():
            assert {told.state for told in some} <= {state}
    assert page(store, state=None, at=now) == page(store, state=None)
    with store.change("forget") as change:
        change.forget([rows[2].number])
    assert page(store, state=None, at=now)[0][3].superseded_by == third


def test_search_finds_texts_and_takes_no_pattern(store, rows):
    assert ids(page(store, search="QUESTION 2")[0]) == [rows[1].edit.id]
    assert ids(page(store, search="50 %")[0]) == [rows[1].edit.id]
    assert page(store, search="5_ %") == page(store, search="%2") == ([], 0)
    assert page(store, search="answer", limit=1)[1] == 2


def test_pages(store, rows):
    found = []
    while some := page(store, state=None, after=found[-1] if found else "", limit=3)[0]:
        found += ids(some)
    assert found == [row.edit.id for row in reversed(rows)]
    with pytest.raises(BadInput, match="no edit"):
        page(store, after="nothing")


def test_hits_and_history(store, rows):
    store.record_hits([Hit(rows[1].number, 0.5, now())] * 3)
    assert [told.hits for told in page(store, state=None)[0]] == [0, 0, 3, 0]
    events = [(event.kind, event.by) for event in story(store, rows[0])]
    assert events == [("made", ""), ("superseded", rows[2].edit.id)]
    taken_back = story(store, store.find(rows[3].edit.id))
    assert [(event.kind, event.who) for event in taken_back] == [
        ("made", ""),
        ("taken_back", "Bob"),
    ]
