"""What one record is worth, and the table of all records."""

import random

import numpy as np
import pytest

from liveedit.report.columns import SCORES, columns, distinct, normalise, probe_scores
from liveedit.types import Firing

RIGHT = {"exact_match": 1.0, "contains": 1.0, "token_accuracy": 1.0, "unedited_match": 0.0}
KEPT = {"exact_match": 1.0, "token_accuracy": 1.0}


@pytest.mark.parametrize(
    ("answer", "same_as"),
    [
        (" Japan\n", "japan"),
        ("JAPAN.", "japan"),
        ("New   York .", "new york"),
        ("Straße", "STRASSE"),
        ("U.S.", "u.s"),
    ],
)
def test_normalise(answer, same_as):
    assert normalise(answer) == normalise(same_as)


def test_normalise_keeps_what_differs():
    assert normalise("Japan..") != normalise("Japan")
    assert normalise("new york") != normalise("newyork")


@pytest.mark.parametrize(
    ("changes", "scores"),
    [
        ({"answer_after": " japan. "}, RIGHT),
        ({"answer_after": "It is JAPAN, I think"}, RIGHT | {"exact_match": 0.0}),
        ({"answer_after": "Jap an"}, RIGHT | {"exact_match": 0.0, "contains": 0.0}),
        ({"answer_before": "japan"}, RIGHT | {"unedited_match": 1.0}),
        (
            {"tokens_wanted": (1, 2, 3, 4), "tokens_after": (1, 9, 3, 9)},
            RIGHT | {"token_accuracy": 0.5},
        ),
        ({"tokens_wanted": (1, 2, 3, 4), "tokens_after": (1, 2)}, RIGHT | {"token_accuracy": 0.5}),
        (
            {"tokens_wanted": (), "tokens_after": ()},
            {k: v for k, v in RIGHT.items() if k != "token_accuracy"},
        ),
        ({"wanted": "before", "answer_after": "France"}, KEPT),
        ({"wanted": "before", "answer_after": "france"}, KEPT | {"exact_match": 0.0}),
        (
            {"wanted": "before", "answer_after": "France", "top10_kept": 0.25},
            KEPT | {"top10_rank": 0.25},
        ),
        (
            {"wanted": "before", "answer_after": "France", "top1_kept": 0.0, "top10_kept": 0.0},
            KEPT | {"top1_kept": 0.0, "top10_rank": 0.0},
        ),
    ],
)
def test_probe_scores(record, changes, scores):
    assert probe_scores(record(**changes)) == scores


def test_the_table_holds_what_the_records_say(run):
    records = run(cases=3)
    table = columns(records)
    assert len(table.rows) == len(records)
    for row in table.rows:
        record = records[row["number"]]
        assert [table.named(n, row[n]) for n in ("editor", "metric", "case")] == [
            record.editor, record.metric, record.case,
        ]  # fmt: skip
        scores = probe_scores(record)
        np.testing.assert_allclose(
            [row[s] for s in SCORES], [scores.get(s, np.nan) for s in SCORES], rtol=1e-6
        )
        assert row["experts"] == record.experts_fired
        assert bool(row["own"]) == any(f.own for f in record.fired)


def test_rows_do_not_depend_on_the_order_of_records(run):
    records = run(cases=3)
    mixed = random.Random(1).sample(records, len(records))
    names = [name for name in columns(records).rows.dtype.names if name != "number"]
    for name in names:
        np.testing.assert_array_equal(columns(records).rows[name], columns(mixed).rows[name])


def test_of_repeated_records_the_last_counts(record):
    table = columns(
        [record(answer_after="Chile"), record(case="other"), record(answer_after="Japan")]
    )
    assert table.repeated == 1
    assert sorted(table.rows["number"]) == [1, 2]


def test_records_of_other_places_are_no_repetition(record):
    others = [
        {"seed": 1},
        {"protocol": "stream"},
        {"editor": "ft"},
        {"window": 1},
        {"edits": 1},
        {"data": "vlkeb"},
    ]
    table = columns([record(), *(record(**other) for other in others)])
    assert (len(table.rows), table.repeated) == (7, 0)


def test_liveedit_stands_behind_its_rivals_and_windows_before_other_protocols(record):
    names = ["wise", "liveedit", "ft"]
    table = columns(
        [record(editor=e, protocol=p) for e in names for p in ("gap", "stream", "windows")]
    )
    assert table.texts["editor"] == ["ft", "wise", "liveedit"]
    assert table.texts["protocol"] == ["windows", "stream", "gap"]


def test_sizes_are_gaps_where_the_protocol_is_gap(record):
    table = columns(
        [record(edits=31, later=20, protocol="gap"), record(edits=100), record(edits=10)]
    )
    assert table.sizes() == [("windows", 10), ("windows", 100), ("gap", 20)]


def test_distinct(record):
    own = (Firing(0, 1.0, own=True),)
    rows = columns([record(case=c, probe=p, fired=own) for p in range(3) for c in "ba"]).rows
    assert len(distinct(rows, "case")) == 2
    assert len(distinct(rows, "case", "probe")) == 6
    assert len(distinct(rows[:0], "case")) == 0


def test_no_records_at_all():
    assert len(columns([]).rows) == 0
