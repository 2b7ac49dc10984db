"""Edit sequences of the protocols, and the cases that are evaluated at each point."""

import pytest

from liveedit.errors import BadInput
from liveedit.evaluate.plan import plan
from liveedit.measures.protocols import STRIDE, Gap, Stream, Windows, spread
from liveedit.types import Case


def number(case):
    return int(case.id.removeprefix("case:"))


def asked(cases, protocol):
    """(N, window, edited, asked) of each point, by the numbers of the cases."""
    found = {}
    for request in plan(cases, protocol):
        edited = tuple(
            number(case) for case in request.sequence.cases[: request.point.cases_edited]
        )
        found.setdefault((request.point.edits, request.point.window, edited), []).append(
            number(request.case)
        )
    return found


def windows(cases, n, max_cases=1000, ask=None):
    return asked(cases, Windows((n,), max_cases, ask))


def doubled(cases):
    return [Case(case.id, case.edits * 2, case.probes) for case in cases]


# Windows


def test_windows_are_consecutive_and_the_rest_is_dropped(cases):
    made = cases(7)
    assert windows(made, 3) == {(3, 0, (0, 1, 2)): [0, 1, 2], (3, 1, (3, 4, 5)): [3, 4, 5]}
    assert windows(made, 1) == {(1, n, (n,)): [n] for n in range(7)}
    assert len(windows(made, 7)) == 1


@pytest.mark.parametrize(("n", "max_cases"), [(1, 9), (2, 8), (4, 12), (4, 13), (5, 1), (12, 40)])
@pytest.mark.parametrize("others", [(), (1, 4), (3,)])
def test_windows_against_a_slow_loop(cases, n, max_cases, others):
    made = cases(40)
    slow = {}
    for first in range(0, 40, n):
        if first + n <= 40 and (first == 0 or first < max_cases):
            slow[n, first // n, tuple(range(first, first + n))] = list(range(first, first + n))
    planned = asked(made, Windows((*others, n), max_cases))
    assert {key: value for key, value in planned.items() if key[0] == n} == slow


def test_windows_that_begin_alike_are_one_sequence(cases):
    asks = plan(cases(30), Windows((10, 1, 2), 30))
    sequences = list(dict.fromkeys(request.sequence for request in asks))
    assert [number(sequence.cases[0]) for sequence in sequences] == list(range(30))
    assert [(point.edits, point.cases_edited, point.window) for point in sequences[0].points] == [
        (1, 1, 0),
        (2, 2, 0),
        (10, 10, 0),
    ]
    assert sequences[0].steps == [(0, 1), (1, 2), (2, 10)]
    assert [(point.edits, point.window) for point in sequences[10].points] == [
        (1, 10),
        (2, 5),
        (10, 1),
    ]
    assert [(point.edits, point.window) for point in sequences[13].points] == [(1, 13)]


def test_a_long_sequence_is_edited_in_strides(cases):
    [sequence] = {request.sequence for request in plan(cases(250), Windows((250,)))}
    assert STRIDE == 100
    assert sequence.steps == [(0, 100), (100, 200), (200, 250)]


def test_too_few_cases_for_one_window(cases):
    with pytest.raises(BadInput, match="7 cases are too few for 8 edits: ask for at most 7 edits"):
        windows(cases(7), 8)


def test_a_case_with_several_edits_counts_as_many(cases):
    twice = doubled(cases(5))
    assert list(windows(twice, 4)) == [(4, 0, (0, 1)), (4, 1, (2, 3))]
    first = plan(twice, Windows((4,)))[:2]
    assert first[0].sequence.edits_between(0, 2) == [*twice[0].edits, *twice[1].edits]
    assert [request.own for request in first] == [range(2), range(2, 4)]
    assert [request.later for request in first] == [2, 0]
    assert list(windows(twice, 3)) == [(3, 0, (0, 1)), (3, 1, (2, 3))]


@pytest.mark.parametrize(
    ("n", "max_cases", "count"), [(1, 5, 5), (10, 5, 1), (10, 11, 2), (10, 1000, 3), (25, 5, 1)]
)
def test_windows_until_enough_cases_are_covered(cases, n, max_cases, count):
    made = windows(cases(30), n, max_cases)
    assert [key[:2] for key in made] == [(n, index) for index in range(count)]
    assert all(len(places) == n for places in made.values())


def test_asked_cases_are_evenly_spread(cases):
    assert spread(10, None) == spread(10, 10) == spread(10, 12) == tuple(range(10))
    assert spread(10, 4) == (0, 2, 5, 7)
    assert spread(7, 3) == (0, 2, 4)
    assert spread(10, 1) == (0,)
    assert list(windows(cases(30), 30, ask=3).values()) == [[0, 10, 20]]


# One sequence that grows


def test_a_stream_asks_all_that_was_edited(cases):
    planned = plan(cases(30), Stream((10, 1, 25)))
    assert len({request.sequence for request in planned}) == 1
    assert asked(cases(30), Stream((10, 1, 25))) == {
        (n, 0, tuple(range(n))): list(range(n)) for n in (1, 10, 25)
    }  # fmt: skip
    assert all(request.later == request.point.edits - 1 - request.index for request in planned)
    assert list(asked(cases(30), Stream((10, 25), ask=2)).values()) == [[0, 5], [0, 12]]


def test_a_gap_is_exact(cases):
    """VLKEB's loop: after each edit s the one that is exactly `gap` behind is tested, if it is
    among the first ones.
    """
    gaps = (2, 5)
    first = 6
    planned = [
        (request.point.edits, request.index, request.later)
        for request in plan(cases(20), Gap(gaps, first))
    ]
    slow = []
    for made in range(1, first + max(gaps) + 1):
        slow += [
            (made, place, gap)
            for gap in sorted(gaps, reverse=True)
            if 0 <= (place := made - 1 - gap) < first
        ]
    assert planned == slow
    assert len(planned) == len(gaps) * first


def test_a_gap_is_edited_case_by_case_and_ends_with_its_last_question(cases):
    [sequence] = {request.sequence for request in plan(cases(20), Gap((2, 5), 6))}
    assert len(sequence.cases) == 11
    assert sequence.steps[-2:] == [(9, 10), (10, 11)]
    assert {request.index for request in plan(cases(20), Gap((2,), 6, ask=2))} == {0, 3}


def test_a_gap_of_cases_with_two_edits(cases):
    planned = plan(doubled(cases(5)), Gap((3,), 2))
    assert [(request.point.edits, request.later) for request in planned] == [(8, 6), (10, 6)]


# Refusals


@pytest.mark.parametrize(
    "protocol",
    [
        Windows((), 5), Windows((0,), 5), Windows((1,), 0), Windows((1,), 5, 0),
        Windows((1, -1), 5, 3), Stream(()), Stream((0,)), Stream((1,), 0),
        Gap((), 2), Gap((0,), 2), Gap((1,), 0),
    ],
)  # fmt: skip
def test_numbers_start_at_one(cases, protocol):
    with pytest.raises(BadInput, match="must be at least 1"):
        plan(cases(3), protocol)


@pytest.mark.parametrize(
    ("protocol", "names"),
    [
        (Windows((1, 1000), 2), "3 cases are too few for 1000 edits"),
        (Stream((1, 4)), "3 cases are too few for 4 edits: ask for at most 3"),
        (Gap((1, 2), 2), "3 cases are too few for 2 and 2 after them"),
    ],
)
def test_all_numbers_are_checked_before_the_first_edit(cases, protocol, names):
    with pytest.raises(BadInput, match=names):
        plan(cases(3), protocol)


def test_cases_of_one_id_are_refused(cases):
    with pytest.raises(BadInput, match="same id"):
        plan(cases(2) * 2, Windows((1,), 5))


@pytest.mark.parametrize(("ask", "places"), [(None, [0, 1]), (1, [0])])
def test_a_stream_asks_about_the_cases_edited_so_far_however_many_edits_they_hold(
    cases, ask, places
):
    assert asked(doubled(cases(5)), Stream((4,), ask)) == {(4, 0, (0, 1)): places}
