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
    superseded = story(store, rows[0])[1]
    assert (superseded.kind, superseded.by) == ("superseded", rows[2].edit.id)
    taken_back = story(store, store.find(rows[3].edit.id))
    assert [(event.kind, event.who) for event in taken_back] == [
        ("made", ""),
        ("taken_back", "Bob"),
    ]


def test_history_tells_when_an_edit_is_restored(store, rows):
    again = add(store, 1)
    ends = [rows[2].number], [again[0].number]
    for numbers in ends:
        with store.change("forget", "Eve") as change:
            change.forget(numbers)
    events = story(store, rows[0])
    assert [event.kind for event in events] == ["made", "superseded", "superseded", "restored"]
    assert events[3].who == "Eve"
    assert [event.kind for event in story(store, store.find(rows[2].edit.id))] == [
        "made", "superseded", "taken_back",
    ]  # fmt: skip


def test_edits_are_listed_as_they_were_at_a_version(store, rows):
    first, second, third, fourth = (row.edit.id for row in rows)
    made = [row.made_in for row in rows]
    assert page(store, state=None, at=0) == ([], 0)
    then, count = page(store, state="in_force", at=made[1])
    assert (ids(then), count) == ([second, first], 2)
    assert [told.superseded_by for told in page(store, state=None, at=made[2])[0]] == [
        "",
        "",
        third,
    ]
    assert ids(page(store, state="superseded", at=made[2])[0]) == [first]
    before, _ = page(store, state="in_force", at=made[3])
    assert [told.state for told in before] == ["in_force"] * 3
    assert ids(before)[0] == fourth
    assert ids(page(store, state="taken_back", at=made[3])[0]) == []
    assert page(store, state="taken_back", at=store.version) == page(store, state="taken_back")
