"""Which cases are edited together, and which are asked about."""

import pytest

from liveedit.errors import BadInput
from liveedit.evaluate.protocol import plan, spread, windows
from liveedit.types import Case


def numbers(window):
    return [int(case.id.removeprefix("case:")) for case in window.cases]


def test_windows_are_consecutive_and_the_rest_is_dropped(cases):
    made = cases(7)
    assert [numbers(window) for window in windows(made, 3)] == [[0, 1, 2], [3, 4, 5]]
    assert [numbers(window) for window in windows(made, 1)] == [[n] for n in range(7)]
    assert len(windows(made, 7)) == 1


def test_too_few_cases_for_one_window(cases):
    with pytest.raises(BadInput, match="7 cases are too few for 8 edits in one pool: ask for at most 7 edits"):
        windows(cases(7), 8)


def test_a_case_with_several_edits_counts_as_many(cases):
    twice = [Case(case.id, case.edits * 2, case.probes) for case in cases(5)]
    made = windows(twice, 4)
    assert [numbers(window) for window in made] == [[0, 1], [2, 3]]
    assert made[0].queries == [*twice[0].edits, *twice[1].edits]
    assert [made[0].own(place) for place in (0, 1)] == [range(2), range(2, 4)]


@pytest.mark.parametrize(("n", "max_cases", "count"), [(1, 5, 5), (10, 5, 1), (10, 11, 2), (10, 1000, 3), (25, 5, 1)])
def test_windows_until_enough_cases_are_covered(cases, n, max_cases, count):
    made = windows(cases(30), n, max_cases)
    assert [(window.edits, window.index) for window in made] == [(n, index) for index in range(count)]
    assert all(window.asked == tuple(range(n)) for window in made)


def test_the_plan_of_several_numbers(cases):
    planned = plan(cases(30), (1, 10, 1), 2)
    assert [(window.edits, window.index) for window in planned] == [(1, 0), (1, 1), (10, 0)]


def test_asked_cases_are_evenly_spread(cases):
    assert spread(10, None) == spread(10, 10) == spread(10, 12) == tuple(range(10))
    assert spread(10, 4) == (0, 2, 5, 7)
    assert spread(7, 3) == (0, 2, 4)
    assert spread(10, 1) == (0,)
    [window] = windows(cases(30), 30, ask=3)
    assert window.asked == (0, 10, 20)
    assert len(window.queries) == 30


@pytest.mark.parametrize(
    ("edits", "max_cases", "ask"), [((), 5, None), ((0,), 5, None), ((1,), 0, None), ((1,), 5, 0), ((1, -1), 5, 3)]
)
def test_numbers_start_at_one(cases, edits, max_cases, ask):
    with pytest.raises(BadInput, match="from 1 on"):
        plan(cases(3), edits, max_cases, ask)


def test_all_numbers_are_checked_before_the_first_window(cases):
    with pytest.raises(BadInput, match="3 cases are too few for 1000 edits"):
        plan(cases(3), (1, 1000), 2)


def test_cases_of_one_id_are_refused(cases):
    with pytest.raises(BadInput, match="same id"):
        plan(cases(2) * 2, (1,), 5)
